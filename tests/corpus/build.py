"""Writes corpus.json anew: ``python -m tests.corpus.build``. Read its diff before you commit it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import av
from PIL import Image

from tests.corpus.outcomes import all_items, judges

CORPUS = Path(__file__).with_name("corpus.json")


def main() -> None:
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder, judges() as judge:
        for index, item in enumerate(all_items()):
            place = Path(folder, str(index))
            place.mkdir()
            outcomes[item.name] = judge.facts(item, place)
    versions = {"av": av.__version__, "pillow": Image.__version__}
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in outcomes.items()
    )
    CORPUS.write_text(
        f'{{\n "made_with": {json.dumps(versions)},\n "outcomes": {{\n{rows}\n }}\n}}\n'
    )
    print(f"{len(outcomes)} items")


if __name__ == "__main__":
    main()
