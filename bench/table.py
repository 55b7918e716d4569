"""Writes the README's table of speeds from the proofs in ``bench/results``.

``python bench/table.py`` rewrites what stands between the two marks in README.md;
``--check`` only tells whether it is what the results say. What was measured and what is predicted
are two tables, so that nobody takes one for the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
BEGIN = "<!-- made by bench/table.py: begin -->"
END = "<!-- made by bench/table.py: end -->"

Result = dict[str, Any]


def read_results(folder: Path) -> list[tuple[str, Result]]:
    """(path in ``folder``, content) of every file with a proof, smallest frames first."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("proof"), dict):
            found.append((path.relative_to(folder).as_posix(), content))
    return sorted(found, key=lambda item: _order(item[1]["proof"]))


def measured(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """Rows of what ran: the speed counts only beside whether its frames were right."""
    yield "| measured on | backend | model, frames | frames/s | p99 | equal to FP32 | proof |"
    yield "|---|---|---|---|---|---|---|"
    for name, result in results:
        proof = result["proof"]
        speed = proof["fps_pipeline"] or proof["fps_file"] or proof["fps_engine"]
        interval = proof["stages"].get("interval", {}).get("p99_ms")
        cells = [
            proof["device"],
            proof["backend"],
            f"`{proof['model']}`, {proof['size']} {proof['format']}",
            f"{speed:.1f}",
            "-" if interval is None else f"{interval:.0f} ms",
            _agreement(proof),
            f"[{Path(name).stem}](bench/results/{name})",
        ]
        yield f"| {' | '.join(cells)} |"


def predicted(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """Rows of what a Tesla T4 could do at most, by its roofline, with frames of the target."""
    bounds = {}
    for _, result in results:
        roofline = result.get("details", {}).get("roofline", {}).get("t4")
        if roofline and result["proof"]["size"] == "1024x1024":
            bounds[result["proof"]["model"], result["proof"]["size"]] = roofline
    if not bounds:
        return
    yield "| predicted for | model, frames | frames/s at most | from |"
    yield "|---|---|---|---|"
    for (model, size), roofline in bounds.items():
        basis = roofline["kind"].partition(": ")[2]
        bound = f"{roofline['fps_pipeline']:.0f}"
        yield f"| Tesla T4, never run | `{model}`, {size} | {bound} | roofline of {basis} |"


def table(folder: Path = RESULTS) -> str:
    """Both tables, with an empty line between them."""
    results = read_results(folder)
    parts = ["\n".join(rows) for rows in (measured(results), predicted(results))]
    return "\n\n".join(part for part in parts if part)


def with_table(readme: str, content: str) -> str:
    """``readme`` with ``content`` between the marks. Raises ValueError when they are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def _order(proof: Result) -> tuple[object, ...]:
    width, height = map(int, proof["size"].split("x"))
    return (proof["device"], proof["backend"], proof["model"], width * height, proof["format"])


def _agreement(proof: Result) -> str:
    if proof["backend"] == "nearest":  # runs no network that could be compared
        return "-"
    if not proof["verified"]:
        return "**no**"
    exact = proof["psnr_db"] is None
    return "exactly" if exact else f"{proof['psnr_db']:.1f} dB"


def main(arguments: Sequence[str]) -> int:
    """1 when ``--check`` finds another table than the results make."""
    readme = README.read_text(encoding="utf-8")
    wanted = with_table(readme, table())
    if wanted == readme:
        return 0
    if "--check" in arguments:
        print("README.md is not what bench/results says: run python bench/table.py")
        return 1
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
