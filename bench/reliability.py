"""Every figure of docs/reliability.md: run in parts, kept as JSON, printed as its table.

    python bench/reliability.py                  # the full counts, about two hours
    python bench/reliability.py fuzz kills       # these parts only
    python bench/reliability.py --short          # under 8 minutes on two quiet cores; keeps nothing
    python bench/reliability.py --table          # writes the table of docs/reliability.md again

A part whose result of this commit is there is not run again, so that a run that was interrupted
goes on where it stopped (``--again`` runs it anyway). A part that raises is a miss, and the others
go on. The last line names what was missed; the exit status is 1 when anything was.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import git_commit, load_average
from bench.reliability_parts import PARTS
from bench.reliability_rows import FULL, SHORT, Found, Sizes, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- figures: made by `python bench/reliability.py --table` -->"
END = "<!-- end of figures -->"
_HELD = {True: "kept", False: "**missed**", None: "not judged"}
BUSY = 1.5
"""A load average of two cores above which times say little."""


@dataclass
class Options:
    """What was asked for."""

    parts: list[str]
    sizes: Sizes
    folder: Path | None
    """Where results are kept; None keeps none."""
    again: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; by default all")
    parser.add_argument("--short", action="store_true", help="small counts, nothing is kept")
    parser.add_argument("--again", action="store_true", help="parts that are done, too")
    parser.add_argument("--table", action="store_true", help="only write the table")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if given.table:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), kept_results()))
        return 0
    sizes = SHORT if given.short else FULL
    wanted = [name for name, part in PARTS.items() if part.is_short or not given.short]
    names, began = given.parts or wanted, time.monotonic()
    missed = run(Options(names, sizes, None if given.short else RESULTS, given.again))
    print(summary(names, missed, time.monotonic() - began))
    return 1 if missed else 0


def run(options: Options) -> list[str]:
    """Runs the parts in turn; returns what was missed, as sentences."""
    missed: list[str] = []
    commit = git_commit()
    for name in options.parts:
        place = None if options.folder is None else options.folder / f"reliability-{name}.json"
        result = None if place is None or options.again else _kept(place, commit)
        if result is None:
            result = run_part(name, options.sizes, commit)
            if place is not None:
                place.write_text(as_json(result))
        for row in result["rows"]:
            if row["kept"] is False:
                missed.append(f"{row['what']}: {row['measured']}, wanted {row['wanted']}")
        print(f"{name}: {result['seconds']:.0f} s, {_verdict(result)}", flush=True)
    return missed


def run_part(name: str, sizes: Sizes, commit: str) -> dict[str, Any]:
    """One part: its rows, and where and how they were made."""
    began, load = time.monotonic(), load_average()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            found, raised = PARTS[name].run(Path(folder), sizes), ""
        except Exception as error:  # at the edge of a part: what the others show is still wanted
            found, raised = Found(), traceback.format_exc()
            print(raised, file=sys.stderr)
            found.add(f"Part {name}", "runs to its end", f"raised {_first_line(error)}", False)
    return {
        "schema": 1,
        "part": name,
        "rows": [asdict(row) for row in found.rows],
        "figures": found.figures,
        "raised": raised,
        "seconds": round(time.monotonic() - began, 1),
        "load_average": max(load, load_average()),
        "command": f"python bench/reliability.py {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": commit,
        "versions": versions(),
    }


def as_json(result: dict[str, Any]) -> str:
    """Lines for people and diffs, but a row of numbers in one."""
    text = json.dumps(result, indent=1)
    numbers = r"\[\n\s+([-\d.e]+(?:,\n\s+[-\d.e]+)*)\n\s+\]"
    return re.sub(numbers, lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def summary(names: list[str], missed: list[str], seconds: float) -> str:
    """The one line at the end."""
    parts = f"reliability: {len(names)} parts in {seconds:.0f} s"
    return f"{parts}, nothing missed" if not missed else f"{parts}, MISSED: {'; '.join(missed)}"


def kept_results() -> list[dict[str, Any]]:
    """The results that are there, in the order of the parts."""
    places = [RESULTS / f"reliability-{name}.json" for name in PARTS]
    return [json.loads(place.read_text()) for place in places if place.exists()]


def with_table(text: str, results: list[dict[str, Any]]) -> str:
    """``text`` with the table between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    assert rest, "the document has lost its marks"
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table(results)}\n{END}{after}"


def table(results: list[dict[str, Any]]) -> str:
    """Every row beside its target; then what each part ran on, and what is missing."""
    lines = ["| What | Wanted | Measured | |", "|---|---|---|---|"]
    for result in results:
        for row in result["rows"]:
            lines.append(
                f"| {row['what']} | {row['wanted']} | {row['measured']} | {_HELD[row['kept']]} |"
            )
    lines += ["", "| Part | Took | Load | Made by |", "|---|---|---|---|"]
    for result in results:
        busy = " (busy: times say little)" if result["load_average"] > BUSY else ""
        lines.append(
            f"| {result['part']} | {result['seconds']:.0f} s | {result['load_average']}{busy} | "
            f"`{result['command']}`, {result['date']}, {result['git_commit'][:7]} |"
        )
    there = {result["part"] for result in results}
    if absent := [name for name in PARTS if name not in there]:
        lines += ["", f"Not run yet: {', '.join(absent)}."]
    return "\n".join(lines)


def _kept(place: Path, commit: str) -> dict[str, Any] | None:
    if not place.exists():
        return None
    result: dict[str, Any] = json.loads(place.read_text())
    is_of_now = result["git_commit"].rstrip("+") == commit.rstrip("+")
    return result if is_of_now and not result.get("raised") else None


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text.replace("|", "/")[:200]


def _verdict(result: dict[str, Any]) -> str:
    missed = [row["what"] for row in result["rows"] if row["kept"] is False]
    if missed:
        return f"missed: {', '.join(missed)}"
    kept = sum(row["kept"] is True for row in result["rows"])
    open_rows = [
        f"{row['what']}: {row['measured']}" for row in result["rows"] if row["kept"] is None
    ]
    return "; ".join([f"{kept} figures kept", *open_rows])


if __name__ == "__main__":
    sys.exit(main())
