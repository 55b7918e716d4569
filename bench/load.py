"""The service under more load than it can take: what is refused, how fast, and what is left over.

Starts a server with the ``nearest`` backend, so that the service itself is measured, keeps many
picture requests in flight against a short queue, and asks ``/livez`` all the while. Then holds
hundreds of sockets that never finish their headers and compares another client's p99, in turns.
Then the same work in turns behind this server, this server without its decode child, and LitServe
(where the Python of ``--litserve-python`` has it).

Ends with one line of JSON: what was measured, and a verdict for each target. A target of time that
is missed while other programs use this machine is ``not judged``. Exit code 1 for a broken target.

    python bench/load.py --seconds 240
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.load_clients import (
    Measured,
    Request,
    ask_in_turn,
    ask_livez,
    ask_pictures,
    at_quarters,
    metric_of,
    percentile,
    slope_mb_per_minute,
    slow_headers,
    watch_own_lag,
)
from bench.load_compare import compare
from bench.load_servers import ROOT, Server, ours, workers

PICTURE = ROOT / "tests" / "data" / "pictures" / "skyline.png"
MOST_OTHERS_CPU = 0.1
"""Share of all cores that other programs may use while times are judged."""
QUIET_TURNS = 4
SETTLE_SECONDS = 10.0
"""For a server to let go of what its last clients held."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is promised of one figure."""

    name: str
    most: float | None = None
    least: float | None = None
    is_time: bool = False
    is_ratio: bool = False
    """Of two times: luck on a busy machine can also make it look kept."""

    def verdict(self, value: float | None, *, machine_is_ours: bool) -> str:
        """``kept``, ``broken``, ``not judged`` or ``not measured``."""
        if value is None:
            return "not measured"
        kept = (self.most is None or value <= self.most) and (
            self.least is None or value >= self.least
        )
        doubtful = not machine_is_ours and (self.is_ratio or (self.is_time and not kept))
        return "not judged" if doubtful else "kept" if kept else "broken"


TARGETS = (
    Target("other_statuses", most=0),
    Target("rejected_p99_ms", most=100, is_time=True),
    Target("livez_p99_ms", most=100, is_time=True),
    Target("loop_lag_max_ms", most=250, is_time=True),
    Target("memory_mb_per_minute", most=1),
    Target("descriptors_left", most=0),
    Target("spool_files_left", most=0),
    Target("slow_headers_factor", most=2, is_ratio=True),
    Target("requests_against_litserve", least=1, is_ratio=True),
)


class Machine:
    """How much of this machine's CPU others used; ours is this process and all its children."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others = others_seconds()

    def report(self) -> dict[str, Any]:
        """Cores, load averages, and the share of all cores that others used."""
        seconds = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        now = others_seconds()
        others = sum(used - self._others.get(who, 0.0) for who, used in now.items())
        return {
            "cpus": os.cpu_count(),
            "load_average_1m": round(os.getloadavg()[0], 1),
            "others_cpu_share": round(max(0.0, others / seconds), 2),
        }


def others_seconds() -> dict[tuple[int, float], float]:
    """CPU time by process outside our tree, with the children that it has waited for.

    Not all busy time less our own: a child of ours whose parent is killed is waited for by the
    first process, which does not tell us. For the same reason that one counts without children.
    """
    ours = {os.getpid(), *(each.pid for each in psutil.Process().children(recursive=True))}
    found = {}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            children = used.children_user + used.children_system if process.pid != 1 else 0.0
            found[process.pid, process.create_time()] = used.user + used.system + children
    return found


async def descriptors_above(before: int, url: str) -> int:
    """What the server keeps open: what was closed on our side ends on theirs in a moment."""
    until = time.monotonic() + SETTLE_SECONDS
    while (left := int(await metric_of(url, "process_open_fds")) - before) > 0:
        if time.monotonic() > until:
            return left
        await asyncio.sleep(0.1)
    return 0


async def files_in(folder: Path) -> int:
    """What stays in it: an answer is read before its files are removed."""
    until = time.monotonic() + SETTLE_SECONDS
    while left := len(list(folder.iterdir())):
        if time.monotonic() > until:
            return left
        await asyncio.sleep(0.1)
    return 0


async def overload(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """More pictures in flight than the queue takes, for as long as was asked."""
    url, measured = server.url, Measured()
    before = int(await metric_of(url, "process_open_fds"))
    cpu, until = server.cpu_seconds(), time.monotonic() + options.seconds
    picture = Request("/upscale", PICTURE.read_bytes(), "image/png")
    askers = [ask_pictures(url, picture, until, measured) for _ in range(options.in_flight)]
    await asyncio.gather(ask_livez(url, until, measured), watch_own_lag(until, measured), *askers)
    cpu = server.cpu_seconds() - cpu
    lag = await metric_of(url, 'sr_loop_lag_seconds{window="max"}')
    made, rejected = measured.statuses[200], measured.statuses[503]
    others = sum(measured.statuses.values()) - made - rejected + measured.no_answers
    return {
        "made": made,
        "made_per_second": round(made / options.seconds, 1),
        "made_p99_ms": percentile(measured.made_ms),
        "rejected": rejected,
        "rejected_p99_ms": percentile(measured.rejected_ms),
        "other_statuses": others,
        "livez_p99_ms": percentile(measured.livez_ms),
        "loop_lag_max_ms": round(lag * 1e3, 1),
        "client_lag_p99_ms": percentile(measured.client_lag_ms),
        "http_cpu_ms_per_request": round(cpu / max(1, made + rejected) * 1e3, 2),
        "memory_mb_per_minute": slope_mb_per_minute(measured.memory),
        "memory_mb_at_quarters": at_quarters(measured.memory),
        "descriptors_left": await descriptors_above(before, url),
    }


async def beside_slow_headers(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """A quiet client alone and beside sockets that never finish their headers, in turns."""
    picture = Request("/upscale", PICTURE.read_bytes(), "image/png")
    alone: list[float] = []
    beside: list[float] = []
    count = max(1, options.quiet // QUIET_TURNS)
    for _ in range(QUIET_TURNS):
        alone += await ask_in_turn(server.url, picture, count)
        async with slow_headers(server.url, options.slow_sockets):
            beside += await ask_in_turn(server.url, picture, count)
    quiet, slow = percentile(alone), percentile(beside)
    return {
        "quiet_p99_ms": quiet,
        "slow_headers_p99_ms": slow,
        "slow_headers_factor": round((slow or 0) / (quiet or 1), 2),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    machine = Machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with ours(folder / "load", options.queue) as server:
            picture = Request("/upscale", PICTURE.read_bytes(), "image/png")
            await ask_in_turn(server.url, picture, 10)
            found = await overload(server, options)
            found |= await beside_slow_headers(server, options)
            found["spool_files_left"] = await files_in(folder / "load" / "spool")
        against = await compare(
            PICTURE.read_bytes(),
            folder,
            options.turns,
            options.turn_seconds,
            options.litserve_python,
        )
    return {
        "schema": 2,
        "seconds": options.seconds,
        "in_flight": options.in_flight,
        "queue": options.queue,
        "workers": workers(),
        **machine.report(),
        **found,
        **against,
        "command": " ".join(["python", "bench/load.py", *sys.argv[1:]]),
    }


def judge(result: dict[str, Any]) -> dict[str, str]:
    """The verdict of each target."""
    quiet = result["others_cpu_share"] <= MOST_OTHERS_CPU
    return {
        target.name: target.verdict(result.get(target.name), machine_is_ours=quiet)
        for target in TARGETS
    }


def overall(verdicts: dict[str, str]) -> str:
    """``broken`` for one that is, ``kept`` only when all are."""
    found = set(verdicts.values())
    if "broken" in found:
        return "broken"
    return "kept" if found == {"kept"} else "not all judged"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--slow-sockets", type=int, default=500)
    parser.add_argument("--quiet", type=int, default=400, help="requests of the quiet client")
    parser.add_argument("--turns", type=int, default=4, help="of each server in the comparison")
    parser.add_argument("--turn-seconds", type=float, default=5)
    parser.add_argument(
        "--litserve-python",
        type=Path,
        default=Path(sys.executable),
        help="a Python with litserve; left out of the comparison when it has none",
    )
    result = asyncio.run(run(parser.parse_args(arguments)))
    verdicts = judge(result)
    for name, verdict in verdicts.items():
        print(f"{verdict:12} {name} = {result.get(name)}", file=sys.stderr)
    whole = overall(verdicts)
    print(json.dumps({**result, "targets": verdicts, "verdict": whole}))
    return 1 if whole == "broken" else 0


if __name__ == "__main__":
    sys.exit(main())
