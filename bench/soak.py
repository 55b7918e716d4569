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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import numpy as np
import psutil

from tests.reliability.chaos import Chaos
from tests.reliability.kills import run_kills
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

MOST_MIB_PER_1000 = 0.5
"""Growth of resident memory that is allowed, in MiB per 1,000 requests."""
SURE_AFTER = 1000
"""Requests below which memory is reported but not judged: caches are still filling."""
_WARM_UP_SHARE = 0.4
_FEWEST = 120
"""Requests without which there is nothing to compare."""
_ROUNDS_OF_CHAOS = 6
_SURVIVABLE = ("503",)
"""What a good request may meet while workers are killed: come back in a moment."""


@dataclass
class Sample:
    """The server at one moment."""

    requests: int
    descriptors: int
    """Of the HTTP process and its workers."""
    threads: int
    rss_mib: float
    """Of the HTTP process, which is never replaced."""
    workers_rss_mib: float = 0.0


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
        while time.monotonic() < until or self.requests < requests:
            with chaos if self.chaotic else contextlib.nullcontext():
                for _ in range(_ROUNDS_OF_CHAOS if self.chaotic else 1):
                    self._round()
            self.settle()
        self.mischief = chaos.done
        return self.report()

    def settle(self) -> None:
        """A sample after the server has let go of what the last requests held."""
        wait_until(self._is_calm, "workers that are all idle", 120)
        process = psutil.Process(self.server.process.pid)
        workers = [child for child in process.children() if "server.workers" in child.cmdline()]
        spool = self.server.data_dir / "spool"
        wait_until(lambda: not list(spool.iterdir()), "an empty spool")
        self.samples.append(
            Sample(
                self.requests,
                sum(each.num_fds() for each in [process, *workers]),
                sum(each.num_threads() for each in [process, *workers]),
                round(process.memory_info().rss / 2**20, 2),
                round(sum(each.memory_info().rss for each in workers) / 2**20, 2),
            )
        )

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
        """First and last samples after the warm-up, and the verdict."""
        steady = self.samples[int(len(self.samples) * _WARM_UP_SHARE) :]
        slope = _slope(steady)
        judged = steady[-1].requests - steady[0].requests >= SURE_AFTER
        growth = {
            "descriptors": _growth([sample.descriptors for sample in steady]),
            "threads": _growth([sample.threads for sample in steady]),
        }
        problems = [name for name, count in growth.items() if count > 0]
        if judged and slope > MOST_MIB_PER_1000:
            problems.append("memory")
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
            "growth": growth,
            "rss_mib_per_1000_requests": round(slope, 2),
            "memory_judged": judged,
            "first": asdict(self.samples[0]),
            "last": asdict(self.samples[-1]),
            "problems": problems,
        }


def _growth(counts: list[int]) -> int:
    """By how much the least of the second half lies above the most of the first."""
    half = len(counts) // 2
    return max(0, min(counts[half:]) - max(counts[:half] or counts))


def _slope(samples: list[Sample]) -> float:
    """MiB per 1,000 requests, least squares."""
    if len({sample.requests for sample in samples}) < 2:
        return 0.0
    requests = np.array([sample.requests for sample in samples], float)
    return float(np.polyfit(requests / 1000, [sample.rss_mib for sample in samples], 1)[0])


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
            print(json.dumps({**asdict(kills), "p95_seconds": kills.recovery_p95_seconds}))
            return 1 if kills.lost or kills.frames_wrong or kills.results_changed else 0
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
