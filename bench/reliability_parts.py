"""The parts of ``bench/reliability.py``: what each runs, and what it wants to see."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from bench.fuzz_media import run as run_fuzz
from bench.reliability_rows import Found, Part, Sizes
from bench.soak import MOST_MIB_PER_1000, soak
from tests.reliability.generated import run_generated
from tests.reliability.integrity import Integrity, run_integrity
from tests.reliability.kills import run_kills
from tests.server.live import live_server, wait_ready
from tests.server.media.clips import Clip, write_clip

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 5.0


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


def kills(folder: Path, sizes: Sizes) -> Found:
    """kill -9 under load."""
    report = run_kills(sizes.kills, folder)
    found = Found(figures=report.__dict__)
    found.add(
        f"`kill -9` of workers, servers and both, {report.kills} in turn, under load: jobs lost / "
        "with frames lost or doubled / with another result",
        "0 / 0 / 0",
        f"{report.lost} / {report.frames_wrong} / {report.results_changed} of {report.jobs} jobs, "
        f"{report.resumed} of them resumed",
        not (report.lost or report.frames_wrong or report.results_changed),
    )
    p95 = report.recovery_p95_seconds
    found.add("Ready again after a kill, p95", "< 5 s", f"{p95:.1f} s", p95 < PATIENCE_SECONDS)
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
    requests = f"{report['requests']:,} requests"
    found.add(
        f"{name}: growth of descriptors / threads",
        "0 / 0",
        f"{growths[0]} / {growths[1]} over {requests}",
        not any(growths),
    )
    if report["memory_judged"]:
        slope = report["rss_mib_per_1000_requests"]
        found.add(
            f"{name}: memory per 1,000 requests",
            f"< {MOST_MIB_PER_1000} MiB",
            f"{slope:+.2f} MiB",
            slope < MOST_MIB_PER_1000,
        )
    errors = "server errors" in report["problems"]
    found.add(f"{name}: server errors", "none", "some" if errors else "none", not errors)
    return found


def leak(folder: Path, sizes: Sizes) -> Found:
    """The positive control of the soak."""
    report = soak(0, folder, requests=sizes.leak_requests, leak=True)
    red = {"descriptors", "threads"} <= set(report["problems"])
    found = Found(figures=report)
    found.add(
        "Positive control: the soak of a server that leaks",
        "red",
        f"red ({', '.join(report['problems'])})" if red else "green",
        red,
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


def integrity(folder: Path, sizes: Sizes) -> Found:
    """Every good video there and back."""
    report: Integrity = run_integrity(folder, ROOT.parent / "shared" / "data" / "video")
    found = Found(figures={"videos": [each.__dict__ for each in report.videos]})
    for what, wanted, good, of in report.totals():
        found.add(what, wanted, f"{good} of {of}", good == of > 0)
    return found


TESTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Corpus: inputs that come out as written", "all", ("tests/reliability/test_corpus.py",)),
    (
        "Requests that break HTTP, forms or digests: refused, nothing left",
        "all",
        ("tests/reliability/test_http_abuse.py", "-k", "not generated"),
    ),
    (
        "Escapes: connections, looks at a sibling, files left, with a positive control",
        "0 / 0 / 0",
        ("tests/reliability/test_escapes.py",),
    ),
    (
        "A confined media child refuses what it does not need",
        "all",
        ("tests/server/media/test_sandbox.py",),
    ),
    (
        "Faulty devices: the result is that of a clean run, no false alarm",
        "all",
        ("tests/reliability/test_faults.py", "tests/engine/test_guard.py"),
    ),
    (
        "Disk full, and names that appear before their bytes are safe",
        "clean 507, 0",
        ("tests/reliability/test_disk.py",),
    ),
    ("A client that leaves stops the work", "all", ("tests/server/test_app_streams.py",)),
    (
        "Every route is closed without a key, jobs are only their owner's",
        "all",
        ("tests/server/test_jobs.py", "-k", "key or link or every"),
    ),
)


def tests(folder: Path, sizes: Sizes) -> Found:
    """What the test suite shows, counted."""
    found = Found()
    for index, (what, wanted, arguments) in enumerate(TESTS):
        place = folder / f"{index}.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={place}", *arguments]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        suite = ElementTree.parse(place).getroot()[0].attrib
        total = int(suite["tests"])
        bad = sum(int(suite[name]) for name in ("failures", "errors", "skipped"))
        found.add(what, wanted, f"{total - bad} of {total} tests", bad == 0 < total)
    return found


PARTS: dict[str, Part] = {
    "tests": Part(tests),
    "generated": Part(generated, is_short=True),
    "fuzz": Part(fuzz, is_short=True),
    "kills": Part(kills, is_short=True),
    "soak": Part(soaking, is_short=True),
    "leak": Part(leak),
    "chaos": Part(chaos),
    "load": Part(load),
    "integrity": Part(integrity),
}
"""In the order of the table."""
