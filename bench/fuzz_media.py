"""Flipped and cut media against the decode child's own code: counts crashes, hangs and silence.

    python bench/fuzz_media.py --flips 1000 --cuts 200

Every input must end as a typed refusal, as frames with the damage noticed, or as frames. The last
line of the output is JSON; the exit status is 1 when anything crashed, hung or leaked an exception.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from server.media.errors import MediaError
from server.media.structure import missing_bytes
from tests.corpus.bad_videos import CONTAINERS, flipped, whole
from tests.reliability.decode_forks import DecodeForks

CARRIES_LENGTH = frozenset(CONTAINERS) - {"ts"}
"""Containers that say how long they are."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=1000, help="flipped files")
    parser.add_argument("--cuts", type=int, default=200, help="files cut short")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report = run(arguments.flips, arguments.cuts, arguments.seed)
    print(json.dumps(report))
    return 1 if report["crashes"] or report["hangs"] or report["untyped"] else 0


def run(flips: int, cuts: int, seed: int = 0) -> dict[str, Any]:
    """Counts of what became of ``flips`` and ``cuts`` inputs, spread over all containers."""
    began, ends = time.monotonic(), collections.Counter[str]()
    bad: list[str] = []
    slowest, noticed, carried = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name, DecodeForks() as forks:
        folder = Path(name)
        upload = folder / "upload"
        for label, kind, content in _inputs(flips, cuts, seed, folder):
            upload.write_bytes(content)
            try:
                missing = missing_bytes(upload)
            except MediaError as error:
                ends[f"refused: {error.code}"] += 1
                if label == "cut":
                    noticed, carried = noticed + 1, carried + 1
                continue
            outcome = forks.decode(upload)
            slowest = max(slowest, outcome.seconds)
            if outcome.died is not None or outcome.code == "silent":
                bad.append(f"{label} {kind}: {outcome.died or 'no answer'}")
                ends[f"died: {outcome.died}"] += 1
                continue
            ends[_end(outcome.code, outcome.damaged or missing > 0)] += 1
            if label == "cut" and kind in CARRIES_LENGTH:
                carried += 1
                noticed += outcome.code is not None or outcome.damaged or missing > 0
    return {
        "flips": flips,
        "cuts": cuts,
        "crashes": sum("hang" not in text and "no answer" not in text for text in bad),
        "hangs": sum("hang" in text for text in bad),
        "untyped": sum("no answer" in text for text in bad),
        "bad": bad,
        "cuts_where_a_length_is_carried": carried,
        "cuts_noticed": noticed,
        "slowest_seconds": slowest,
        "ends": dict(ends.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }


def _end(code: str | None, is_noticed: bool) -> str:
    if code is not None:
        return f"refused: {code}"
    return "frames, damage noticed" if is_noticed else "frames"


def _inputs(flips: int, cuts: int, seed: int, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    kinds = list(CONTAINERS)
    for index in range(flips):
        kind = kinds[index % len(kinds)]
        # From one bit to many: some are noticed at once, some only deep in a decoder.
        bits = 1 << (index // len(kinds) % 7)
        yield "flip", kind, flipped(whole(kind, folder), seed + index, bits)
    for index in range(cuts):
        kind = kinds[index % len(kinds)]
        content = whole(kind, folder)
        share = (index // len(kinds) + 0.5) / (cuts / len(kinds))
        yield "cut", kind, content[: max(1, int(len(content) * min(share, 1)))]


if __name__ == "__main__":
    sys.exit(main())
