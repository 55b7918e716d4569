"""Short form of ``python bench/fuzz_media.py``, and what it must be able to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fuzz_media import run
from tests.reliability.decode_forks import DecodeForks, _read


@pytest.mark.timeout(600)  # seconds of work, minutes on a machine that is busy with other things
def test_flipped_and_cut_media_never_crash_hang_or_pass_for_whole() -> None:
    report = run(flips=120, cuts=40, seed=7)
    assert report["bad"] == []
    assert report["cuts_noticed"] >= 0.95 * report["cuts_where_a_length_is_carried"] > 25
    assert sum(report["ends"].values()) == 160


def test_a_fork_that_dies_without_a_word_is_seen(tmp_path: Path) -> None:
    assert _read(b"").code == "silent"
    assert _read(b'{"type":"error","code":"corrupt","message":""}\n').code == "corrupt"
    with DecodeForks() as forks:
        outcome = forks.decode(tmp_path / "no such file")
    assert outcome.code == "corrupt"
    assert outcome.died is None
