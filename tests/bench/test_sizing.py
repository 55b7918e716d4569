"""Sizing is arithmetic on a proof, and refuses what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sizing import Arguments, SizingError, main, proven_fps, read_proof, size_for

RESULTS = Path(__file__).parents[2] / "bench" / "results"
PIXELS = 4096 * 4096


def test_every_kept_proof_can_be_sized(capsys: pytest.CaptureFixture[str]) -> None:
    proofs = [path for path in RESULTS.glob("*.json") if "proof" in json.loads(path.read_text())]
    assert proofs
    for path in proofs:
        assert main(["--proof", str(path), "--streams", "1", "10"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert [size["streams"] for size in answer["sizes"]] == [1, 10]


def test_a_stream_of_4096_squared_has_the_bytes_that_the_documents_say() -> None:
    one = size_for(1, 160.0, PIXELS, Arguments(Path("-")))
    assert (one.gpus, one.raw_gbit_per_second, one.coded_gbit_per_second) == (1, 12.08, 0.081)
    assert size_for(10, 160.0, PIXELS, Arguments(Path("-"))).gpus == 5
    assert size_for(10, 40.0, PIXELS, Arguments(Path("-"))).gpus == 19


@given(st.integers(1, 1000), st.floats(1, 1000), st.floats(0.1, 1))
def test_the_devices_are_enough_and_one_less_is_not(
    streams: int, gpu_fps: float, load: float
) -> None:
    arguments = Arguments(Path("-"), load=load)
    found = size_for(streams, gpu_fps, PIXELS, arguments)
    whole = int(gpu_fps * load / 60)
    carried = whole if whole else gpu_fps * load / 60
    assert found.gpus * carried >= streams * (1 - 1e-9)
    assert (found.gpus - 1) * carried < streams * (1 + 1e-9)
    assert found.nodes * 4 >= found.gpus


def test_the_speed_with_files_counts_where_it_is_known() -> None:
    assert proven_fps({"fps_file": 30.0, "fps_pipeline": 90.0}) == (30.0, "file to file")


def test_what_is_no_proof_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("", "{}", "[]", '{"proof": {"size": "1x1"}}'):
        path.write_text(text)
        with pytest.raises(SizingError, match="no proof"):
            read_proof(path)
        assert main(["--proof", str(path)]) == 2
