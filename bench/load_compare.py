"""The same picture work behind three servers, in turns, so that a noisy machine hits all alike."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load_clients import Measured, Request, ask_pictures, percentile
from bench.load_servers import Server, has_litserve, litserve, litserve_body, ours

IN_FLIGHT = 16
"""Below our queue's length, because LitServe's has no end."""


@dataclass
class Side:
    """One server and what it did in all its turns."""

    server: Server
    request: Request
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    measured: Measured = field(default_factory=Measured)

    async def turn(self, seconds: float) -> None:
        """Loads it for that long."""
        began, cpu = time.monotonic(), self.server.tree_cpu_seconds()
        asks = [
            ask_pictures(self.server.url, self.request, began + seconds, self.measured)
            for _ in range(IN_FLIGHT)
        ]
        await asyncio.gather(*asks)
        self.seconds += time.monotonic() - began
        self.cpu_seconds += self.server.tree_cpu_seconds() - cpu

    def forget(self) -> None:
        """Begins anew."""
        self.seconds = self.cpu_seconds = 0.0
        self.measured = Measured()

    def report(self) -> dict[str, Any]:
        """Requests a second, percentiles, and CPU time of the whole process tree."""
        made = len(self.measured.made_ms)
        return {
            "made": made,
            "other": sum(self.measured.statuses.values()) - made + self.measured.no_answers,
            "per_second": round(made / self.seconds, 1),
            "p50_ms": percentile(self.measured.made_ms, 50),
            "p99_ms": percentile(self.measured.made_ms),
            "cpu_ms_per_picture": round(self.cpu_seconds / max(made, 1) * 1e3, 2),
        }


async def compare(
    picture: bytes, folder: Path, turns: int, turn_seconds: float, python: Path
) -> dict[str, Any]:
    """Ours, ours without the decode child, and LitServe where ``python`` has it."""
    own = Request("/upscale", picture, "image/png")
    sides: dict[str, Side] = {}
    async with AsyncExitStack() as stack:
        for name, isolated in (("ours", True), ("ours_without_decode_child", False)):
            running = ours(folder / name, 64, isolated=isolated)
            sides[name] = Side(await stack.enter_async_context(running), own)
        if await has_litserve(python):
            other = Request("/predict", litserve_body(picture), "application/json")
            sides["litserve"] = Side(await stack.enter_async_context(litserve(python)), other)
        for side in sides.values():
            await side.turn(min(1.0, turn_seconds))
            side.forget()  # what was slow because it was the first time
        for _ in range(turns):
            for side in sides.values():
                await side.turn(turn_seconds)
    reports = {name: side.report() for name, side in sides.items()}
    return {**reports, **_ratios(reports)}


def _ratios(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    isolated, plain = reports["ours"], reports["ours_without_decode_child"]
    found: dict[str, Any] = {
        "isolation_costs_ms_of_cpu": round(
            isolated["cpu_ms_per_picture"] - plain["cpu_ms_per_picture"], 2
        ),
        "isolation_keeps_share_of_requests": _share(isolated, plain),
    }
    if "litserve" in reports:
        other = reports["litserve"]
        found["requests_against_litserve"] = _share(plain, other)
        found["requests_against_litserve_isolated"] = _share(isolated, other)
        found["p99_against_litserve"] = round((plain["p99_ms"] or 0) / (other["p99_ms"] or 1), 2)
    return found


def _share(one: dict[str, Any], other: dict[str, Any]) -> float:
    return round(float(one["per_second"]) / max(float(other["per_second"]), 0.1), 2)
