"""The parts of ``bench/reliability.py``: what each runs, and what it wants to see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.fuzz_media import run as run_fuzz
from bench.reliability_ledger import integrity
from bench.reliability_rows import Found, Part, Sizes
from bench.reliability_tests import tests
from bench.soak import LEAKS, soak
from bench.soak_samples import FEWEST_SAMPLES, MOST_MIB_PER_1000, SURE_AFTER
from bench.supply_chain import supply_chain
from tests.reliability.generated import run_generated
from tests.reliability.kills import run_kills
from tests.reliability.malformed import files, post_files, send_requests
from tests.server.live import live_server, wait_ready
from tests.server.media.clips import Clip, write_clip

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 5.0
FEWEST_FILES, FEWEST_REQUESTS = 300, 30
_KILLED = {"worker": "all workers", "server": "the server", "both": "server and workers"}


def generated(folder: Path, sizes: Sizes) -> Found:
    """Schemathesis against a real server."""
    clip = write_clip(folder / "clip", Clip(width=16, height=16, frames=3)).read_bytes()
    with live_server(folder / "data") as server:
        wait_ready(server)
        seen = run_generated(server, sizes.generated, clip)
        log = server.log()
    found = Found(figures={**seen.__dict__, "tracebacks": log.count("Traceback")})
    found.add(
        f"Generated requests (schemathesis, {seen.operations} operations) with a server error",
        f"0 of {sizes.generated:,}",
        f"{len(seen.server_errors)} of {seen.cases:,}",
        not seen.server_errors and "Traceback" not in log and seen.cases >= sizes.generated * 0.99,
    )
    return found


def fuzz(folder: Path, sizes: Sizes) -> Found:
    """Flipped and cut media."""
    report = run_fuzz(sizes.flips, sizes.cuts)
    found, carried = Found(figures=report), report["cuts_where_a_length_is_carried"]
    bad = [report[name] for name in ("crashes", "hangs", "untyped")]
    found.add(
        f"{sizes.flips:,} flipped, {sizes.cuts:,} cut videos: crashes / hangs / other exceptions",
        "0 / 0 / 0",
        " / ".join(map(str, bad)),
        not any(bad),
    )
    share = report["cuts_noticed"] / carried
    found.add(
        "Cuts noticed where the container says its length",
        "at least 95 %",
        f"{report['cuts_noticed']} of {carried} ({share:.1%})",
        share >= 0.95,
    )
    return found


def malformed(folder: Path, sizes: Sizes) -> Found:
    """Files and requests that are wrong, against a real server."""
    with live_server(folder / "data", SR_BODY_IDLE_SECONDS="1") as server:
        wait_ready(server)
        seen = post_files(server, files(folder))
        send_requests(server, seen)
        log = server.log()
    found = Found(figures={**seen.__dict__, "tracebacks": log.count("Traceback")})
    told = ", ".join(f"{count} {status}" for status, count in sorted(seen.statuses.items()))
    found.add(
        "Malformed files / requests that break HTTP: sent to a server",
        f"at least {FEWEST_FILES} / {FEWEST_REQUESTS}",
        f"{seen.files} / {seen.requests} ({told})",
        seen.files >= FEWEST_FILES and seen.requests >= FEWEST_REQUESTS,
    )
    found.add(
        "Malformed files and requests with an answer of 500 or above, none, or an unexpected one",
        "0",
        f"{len(seen.bad)}" + f": {', '.join(seen.bad[:9])}" * bool(seen.bad),
        not seen.bad and "Traceback" not in log,
    )
    return found


def kills(folder: Path, sizes: Sizes) -> Found:
    """kill -9 under load."""
    reports = run_kills(sizes.kills, folder)
    found = Found(figures={kind: report.__dict__ for kind, report in reports.items()})
    for kind, report in reports.items():
        if not report.kills:
            continue
        name = f"`kill -9` of {_KILLED[kind]} x{report.kills} under load"
        bad = (report.lost, report.frames_wrong, report.results_changed)
        found.add(
            f"{name}: jobs lost / with frames lost or doubled / with another result",
            "0 / 0 / 0",
            f"{' / '.join(map(str, bad))} of {report.jobs} jobs, {report.resumed} of them resumed",
            not any(bad),
        )
        p95 = report.recovery_p95_seconds
        found.add(f"{name}: ready again, p95", "< 5 s", f"{p95:.1f} s", p95 < PATIENCE_SECONDS)
    return found


def soaking(folder: Path, sizes: Sizes) -> Found:
    """Ordinary requests, thousands of them."""
    return _soaked(
        "Mixed requests",
        soak(sizes.soak_seconds, folder, requests=sizes.soak_requests),
    )


def chaos(folder: Path, sizes: Sizes) -> Found:
    """The same while workers are killed and clients misbehave."""
    report = soak(sizes.chaos_seconds, folder, chaos=True)
    found = _soaked(f"{sizes.chaos_seconds / 60:.0f} minutes of chaos", report)
    done = ", ".join(f"{count} {name}" for name, count in sorted(report["mischief"].items()))
    lost, jobs = report["jobs_lost"], report["jobs"]
    found.add(f"Jobs lost in it ({done})", "0", f"{lost} of {jobs}", lost == 0 < jobs)
    return found


def _soaked(name: str, report: dict[str, Any]) -> Found:
    found, growth = Found(figures=report), report["growth"]
    growths = (growth["descriptors"], growth["threads"])
    requests, samples = f"{report['requests']:,} requests", report["samples_judged"]
    found.add(
        f"{name}: growth of descriptors / threads",
        "0 / 0",
        f"{growths[0]} / {growths[1]} over {requests}, {samples} samples after the warm-up",
        not any(growths) and samples >= FEWEST_SAMPLES,
    )
    what, wanted = f"{name}: memory per 1,000 requests", f"< {MOST_MIB_PER_1000} MiB"
    slope = report["rss_mib_per_1000_requests"]
    if report["memory_judged"]:
        found.add(what, wanted, f"{slope:+.2f} MiB", slope < MOST_MIB_PER_1000)
    else:  # said, but not missed: the caches of a short run are still filling
        watched = f"{report['memory_judged_over_requests']} requests after the warm-up"
        judged = f"not judged ({watched}, {SURE_AFTER:,} are needed): {slope:+.2f} MiB"
        found.add(what, wanted, judged, None)
    errors = "server errors" in report["problems"]
    found.add(f"{name}: server errors", "none", "some" if errors else "none", not errors)
    return found


def leak(folder: Path, sizes: Sizes) -> Found:
    """The positive control of the soak."""
    report = soak(0, folder, requests=sizes.leak_requests, leak=True)
    seen = [name for name in LEAKS if name in report["problems"]]
    found = Found(figures=report)
    found.add(
        "Positive control: the soak of a server that leaks turns red",
        ", ".join(LEAKS),
        ", ".join(seen) or "nothing",
        len(seen) == len(LEAKS),
    )
    return found


def load(folder: Path, sizes: Sizes) -> Found:
    """More pictures than the service can take, then 500 sockets that never finish a header."""
    command = [sys.executable, "bench/load.py"]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    report = json.loads(answer.stdout.splitlines()[-1])
    found = Found(figures=report)
    for what, wanted, name, most, unit in (
        ("Overload: refusals answered within, p99", "< 100 ms", "rejected_p99_ms", 100, " ms"),
        ("Overload: answers that are neither 200 nor 503", "0", "other_statuses", 0, ""),
        ("Overload: health answered within, p99", "< 100 ms", "livez_p99_ms", 100, " ms"),
        ("Overload: longest lag of the event loop", "< 250 ms", "loop_lag_max_ms", 250, " ms"),
        ("Overload: growth of memory", "< 1 MB/min", "memory_mb_per_minute", 1, " MB/min"),
        ("Overload: descriptors left", "0", "descriptors_left", 0, ""),
        ("500 silent sockets: p99 of another client, times", "< 2", "slow_headers_factor", 2, ""),
    ):
        found.add_most(what, wanted, report[name], most, unit)
    return found


PARTS: dict[str, Part] = {
    "tests": Part(tests),
    "generated": Part(generated, is_short=True),
    "malformed": Part(malformed),
    "fuzz": Part(fuzz, is_short=True),
    "kills": Part(kills, is_short=True),
    "soak": Part(soaking, is_short=True),
    "leak": Part(leak),
    "chaos": Part(chaos),
    "load": Part(load),
    "integrity": Part(integrity),
    "supply-chain": Part(supply_chain),
}
"""In the order of the table."""
