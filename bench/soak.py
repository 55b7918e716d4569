"""Mixed requests for minutes: do descriptors, threads or memory of the server grow?

    python bench/soak.py --seconds 120
    python bench/soak.py --requests 2000
    python bench/soak.py --seconds 1800 --chaos  # workers killed, uploads cut, readers that leave
    python bench/soak.py --seconds 20 --leak     # the positive control: must exit with 1
    python bench/soak.py --kills 20              # kill -9 of workers, servers and both

The last line of the output is JSON; the exit status is 1 when a limit is passed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import psutil

from bench.soak_samples import Sample, columns, judge, take_sample
from tests.reliability.chaos import Chaos
from tests.reliability.kills import run_kills
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

LEAKS = ("descriptors", "threads", "memory")
"""What a soak of the leaking server must find."""
_FEWEST = 120
"""Requests without which there is nothing to compare."""
_ROUNDS_OF_CHAOS = 6
_AT_ONCE = 16
_SURVIVABLE = ("503",)
"""What a good request may meet while workers are killed: come back in a moment."""


@dataclass
class Soak:
    """One run."""

    server: LiveServer
    clip: bytes
    chaotic: bool = False
    requests: int = 0
    jobs: int = 0
    jobs_lost: int = 0
    """That did not end as done, or whose result could not be fetched."""
    statuses: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """Every answer of 500 and above, as it came."""
    mischief: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def run(self, seconds: float, requests: int) -> dict[str, Any]:
        """Requests in turn for ``seconds``, but at least so many; returns the report."""
        until = time.monotonic() + seconds
        chaos = Chaos(self.server, self.clip)
        self._fill_pools()
        while time.monotonic() < until or self.requests < requests:
            with chaos if self.chaotic else contextlib.nullcontext():
                for _ in range(_ROUNDS_OF_CHAOS if self.chaotic else 1):
                    self._round()
            self.settle()
        self.mischief = chaos.done
        return self.report()

    def _fill_pools(self) -> None:
        """Makes the server start the threads that it will ever start: later is growth."""

        def ask(_: int) -> int:
            with self.server.client() as client:
                return client.get("/jobs").status_code

        with ThreadPoolExecutor(_AT_ONCE) as clients:
            for _ in range(3):
                assert set(clients.map(ask, range(_AT_ONCE))) == {200}

    def settle(self) -> None:
        """A sample after the server has let go of what the last requests held."""
        wait_until(self._is_calm, "workers that are all idle", 120)
        spool = self.server.data_dir / "spool"
        wait_until(lambda: not list(spool.iterdir()), "an empty spool")
        process = psutil.Process(self.server.process.pid)
        before = self.samples[-1] if self.samples else None
        self.samples.append(take_sample(process, self.requests, before))

    def _is_calm(self) -> bool:
        with self.server.client() as client:
            return set(client.get("/readyz").json()["workers"]) == {"idle"}

    def _round(self) -> None:
        with self.server.client() as client:
            for ask in self._kinds(client):
                answer = ask()
                self.requests += 1
                status = str(answer.status_code)
                self.statuses[status] = self.statuses.get(status, 0) + 1
                if answer.is_server_error:
                    self.errors.append(f"{status}: {answer.text}")
            self._job(client)

    def _kinds(self, client: httpx.Client) -> list[Callable[[], httpx.Response]]:
        good, cut = png(24, 24, self.requests), self.clip[: len(self.clip) // 2]
        form = {"file": ("a.png", good)}
        return [
            lambda: client.post("/upscale", content=good),
            lambda: client.post("/upscale", content=good, params={"format": "webp"}),
            lambda: client.post("/upscale", files=form),
            lambda: client.post("/upscale", content=good[:-40]),
            lambda: client.post("/upscale", content=b"not media" * 99),
            lambda: client.post("/upscale", content=b""),
            lambda: client.post("/upscale?quality=x", content=good),
            lambda: client.post("/upscale", content=self.clip),
            lambda: client.post("/upscale", content=cut),
            lambda: client.get("/jobs/none"),
            *[lambda: client.get("/readyz")] * 5,
            *[lambda: client.get("/metrics")] * 2,
            lambda: client.get("/"),
            lambda: client.get("/openapi.json"),
        ]

    def _job(self, client: httpx.Client) -> None:
        answer = client.post("/jobs?height=48", content=self.clip)
        url = f"/jobs/{answer.json()['id']}"
        wait_until(lambda: client.get(url).json()["state"] in ("done", "failed"), "the job", 180)
        self.jobs += 1
        self.jobs_lost += client.get(f"{url}/result").status_code != 200
        assert client.delete(url).status_code < 300
        self.requests += 4

    def report(self) -> dict[str, Any]:
        """Every sample, and the verdict on those after the warm-up."""
        grown = judge(self.samples)
        problems = grown.problems
        if self.jobs_lost:
            problems.append("lost jobs")
        survivable = _SURVIVABLE if self.chaotic else ()
        if any(status[0] == "5" and status not in survivable for status in self.statuses):
            problems.append("server errors")
        return {
            "requests": self.requests,
            "jobs": self.jobs,
            "jobs_lost": self.jobs_lost,
            "statuses": self.statuses,
            "errors": self.errors,
            "mischief": self.mischief,
            "growth": {"descriptors": grown.descriptors, "threads": grown.threads},
            "samples_judged": grown.samples,
            "rss_mib_per_1000_requests": grown.rss_mib_per_1000,
            "memory_judged": grown.is_memory_judged,
            "memory_judged_over_requests": grown.requests,
            "samples": columns(self.samples),
            "problems": problems,
        }


def soak(
    seconds: float, folder: Path, *, requests: int = 0, leak: bool = False, chaos: bool = False
) -> dict[str, Any]:
    """A soak of a server in ``folder``; with ``leak`` of one that leaks."""
    clip = write_clip(folder / "clip", Clip(width=16, height=16, frames=3)).read_bytes()
    module = "tests.reliability.leaky_server" if leak else "server"
    with live_server(folder / "data", module=module, SR_WORKERS="2") as server:
        wait_ready(server)
        return Soak(server, clip, chaos).run(seconds, max(requests, _FEWEST))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--requests", type=int, default=0, help="at least so many")
    parser.add_argument("--chaos", action="store_true", help="kill workers, cut uploads, leave")
    parser.add_argument("--leak", action="store_true", help="soak a server that leaks")
    parser.add_argument("--kills", type=int, default=0, help="kill this often instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.kills:
            kills = run_kills(arguments.kills, Path(name))
            print(json.dumps({kind: asdict(report) for kind, report in kills.items()}))
            bad = (each.lost + each.frames_wrong + each.results_changed for each in kills.values())
            return 1 if any(bad) else 0
        report = soak(
            0 if arguments.requests else arguments.seconds,
            Path(name),
            requests=arguments.requests,
            leak=arguments.leak,
            chaos=arguments.chaos,
        )
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
