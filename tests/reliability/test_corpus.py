"""Every input of the corpus has the outcome that is written down for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tests.corpus.build import CORPUS
from tests.corpus.item import Item
from tests.corpus.outcomes import Judges, all_items, judges

ITEMS = {item.name: item for item in all_items()}
WRITTEN: dict[str, Any] = json.loads(CORPUS.read_text())
VERSIONS = {"av": av.__version__, "pillow": Image.__version__}
DAMAGED = ("cut video/", "flipped video/", "lying video/", "broken picture/")
"""Another FFmpeg may find more or fewer frames in these; what kind of end they come to stays."""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judges]:
    with judges() as opened:
        yield opened


def test_the_corpus_and_its_expectations_are_the_same_set() -> None:
    assert list(WRITTEN["outcomes"]) == list(ITEMS)
    assert len(ITEMS) >= 120


@pytest.mark.parametrize("name", ITEMS)
def test_an_input_has_its_written_outcome(name: str, judge: Judges, tmp_path: Path) -> None:
    item: Item = ITEMS[name]
    facts, expected = judge.facts(item, tmp_path), WRITTEN["outcomes"][name]
    if name.startswith(DAMAGED) and WRITTEN["made_with"] != VERSIONS:
        assert _kind(facts) in ("refused", "noticed", _kind(expected)), facts
    else:
        assert facts == expected
    left = {path.name for path in tmp_path.iterdir()} - {"upload", "whole", "output.mkv"}
    assert not left


def _kind(facts: dict[str, Any]) -> str:
    if "code" in facts:
        return "refused"
    return "noticed" if facts.get("damaged") or facts.get("cut") else "taken"


def test_a_cut_video_never_looks_whole() -> None:
    """By the outcomes as written: refused, or noticed by its length or its decoder."""
    cuts = [facts for name, facts in WRITTEN["outcomes"].items() if name.startswith("cut video/")]
    assert len(cuts) == 32
    assert all(_kind(facts) in ("refused", "noticed") for facts in cuts)
