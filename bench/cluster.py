"""Does a second node help? One video on a Ray cluster with one worker and with two, in one run.

Starts one and two Ray nodes on this machine, each with one worker of one thread, and lets
``sr-upscale --cluster`` run the same clip on them, in turns, so that what else the machine does
meets both alike. Counts from the first to the last segment that arrives, so that starting Ray is
not part of it. Prints a table, then one line of JSON.

    python -m bench.cluster --rounds 3 --save bench/results/cluster-2-nodes.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from bench.machine import git_commit
from server.media.ledger import FILE_NAME
from tests.cluster.nodes import Nodes, environment, ray_nodes
from tests.server.media.clips import Clip, write_clip

SEGMENTS, SEGMENT_FRAMES = 8, 30
POLL_SECONDS, PATIENCE_SECONDS = 0.02, 600.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """Compares one worker with two."""

    rounds: int = 3
    """Turns; each runs the clip with one worker and with two."""
    model: str = "fast"
    size: int = 128
    """Side of the frames in pixels."""
    save: Path | None = None
    """Also keep the JSON here."""


def write_source(path: Path, size: int) -> Path:
    """Eight segments of ten seconds, three frames a second."""
    frames = SEGMENTS * SEGMENT_FRAMES
    clip = Clip(
        width=size,
        height=size,
        frames=frames,
        time_base=Fraction(1, 12800),
        pts=[n * 12800 // 3 for n in range(frames)],
        options={"g": str(SEGMENT_FRAMES), "sc_threshold": "0"},
    )
    return write_clip(path, clip)


def run_once(nodes: Nodes, source: Path, target: Path, model: str) -> float:
    """Frames a second between the first and the last segment that arrived."""
    engine = ["--backend", "onnxruntime", "--model", model, "--threads", "1", "--overwrite"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "server.upscale_cli", str(source), str(target)),
            *("--cluster", nodes.address, *engine),
        ],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    arrivals = watch(process, target.parent)
    _, said = process.communicate()
    if process.returncode or len(arrivals) < 2:
        raise SystemExit(f"the run failed ({process.returncode}, {len(arrivals)} segments): {said}")
    first, last = arrivals[0], arrivals[-1]
    return (len(arrivals) - 1) * SEGMENT_FRAMES / (last - first)


def watch(process: subprocess.Popen[str], folder: Path) -> list[float]:
    """When each segment arrived."""
    arrivals: list[float] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for ledger in folder.glob(f".*/{FILE_NAME}"):
            try:
                count = ledger.read_text().count('{"row"')
            except FileNotFoundError:  # the run has just ended
                continue
            arrivals += [time.monotonic()] * (count - len(arrivals))
        time.sleep(POLL_SECONDS)
    return arrivals


def measure(chosen: Arguments) -> dict[str, Any]:
    """Runs everything and returns what the JSON says."""
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_source(folder / "source", chosen.size)
        for number in range(chosen.rounds):
            for workers in (1, 2):
                place = folder / f"{number}-{workers}"
                place.mkdir()
                # One CPU per node: a maker takes one, so that nodes are workers.
                with ray_nodes(place, workers, cpus=1) as nodes:
                    target = place / "a.mp4"
                    found[workers].append(run_once(nodes, source, target, chosen.model))
    medians = {workers: statistics.median(values) for workers, values in found.items()}
    return {
        "schema": 1,
        "fps": {str(workers): [round(v, 2) for v in values] for workers, values in found.items()},
        "speedup": round(medians[2] / medians[1], 3),
        "frames": SEGMENTS * SEGMENT_FRAMES,
        "size": f"{chosen.size}x{chosen.size}",
        "model": chosen.model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "git_commit": git_commit(),
        "command": f"python -m bench.cluster --rounds {chosen.rounds} --size {chosen.size}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    chosen = tyro.cli(Arguments, args=arguments, prog="bench.cluster")
    found = measure(chosen)
    table = Table("workers", "fps of each round")
    for workers, values in found["fps"].items():
        table.add_row(workers, " ".join(f"{value:.1f}" for value in values))
    Console(stderr=True).print(table, f"two against one: {found['speedup']:.2f}")
    if chosen.save is not None:
        chosen.save.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
