"""Coverage-guided fuzzing (atheris) of our own parsers: magic, lengths, headers, manifests.

    python bench/fuzz_parsers.py --seconds 60                 # every target in turn
    python bench/fuzz_parsers.py --targets magic manifest     # these only

Each target runs in a process of its own. The last line is JSON; the exit status is 1 when a target
raised something that it should not; the input is then in build/fuzz.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris

with atheris.instrument_imports(include=["server"]):
    from tests.reliability.parsers import SEEDS, TARGETS

FOUND = Path(__file__).parents[1] / "build" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--inside", choices=list(TARGETS), help="run one target in this process")
    arguments = parser.parse_args()
    if arguments.inside:
        _fuzz(arguments.inside, arguments.seconds)
    reports = {name: _run(name, arguments.seconds) for name in arguments.targets}
    print(json.dumps(reports))
    return any(report["exit"] for report in reports.values())


def _run(name: str, seconds: int) -> dict[str, int]:
    """One target in a child: libFuzzer ends its process."""
    command = [sys.executable, __file__, "--inside", name, "--seconds", str(seconds)]
    answer = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        print(answer.stderr[-3000:], file=sys.stderr)
    runs = re.findall(r"number_of_executed_units: (\d+)", answer.stderr)
    return {"runs": int(runs[-1]) if runs else 0, "exit": answer.returncode}


def _fuzz(name: str, seconds: int) -> None:
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{index}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=4096", "-timeout=10"]
    atheris.Setup(
        [sys.argv[0], *flags, f"-artifact_prefix={FOUND}/{name}-", str(corpus)], TARGETS[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
