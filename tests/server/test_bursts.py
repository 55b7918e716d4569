"""Requests that come in one turn of the event loop find a queue that is already counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.server.live import png
from tests.server.test_limits import app, check, refusal, until


def test_a_burst_is_refused_before_it_is_taken_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, picture_queue=2) as (client, service):
            asks = [asyncio.create_task(client.post("/upscale", content=png())) for _ in range(20)]
            await until(lambda: sum(ask.done() for ask in asks) == 18)
            for ask in asks:
                if ask.done():
                    refusal(ask.result(), 503, "queue_full")
            # One that came as far as the pool would have been received and spooled for nothing.
            metrics = (await client.get("/metrics")).text
            assert 'sr_errors_total{code="queue_full"} 18.0' in metrics
            assert 'sr_tasks_total{kind="picture"' not in metrics
            assert service.pool.queued("picture") == 2
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)
            await until(lambda: service.pool.queued("picture") == 0)
            assert list(service.spool.iterdir()) == []

    check(test)
