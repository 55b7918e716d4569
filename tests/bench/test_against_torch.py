"""The comparison with PyTorch runs and its JSON is true to its verdict."""

from __future__ import annotations

import json

import pytest

from bench.against_torch import main


@pytest.mark.parametrize(("require", "code", "verdict"), [("0", 0, "PASS"), ("1e9", 1, "FAIL")])
def test_the_last_line_is_the_result(
    require: str, code: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--sizes", "16", "24", "--repeats", "1", "--threads", "1", "--require", require]
    assert main(arguments) == code
    proof = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert proof["verdict"] == verdict
    assert [row["size"] for row in proof["rows"]] == [16, 24]
    for row in proof["rows"]:
        assert row["ratio"] == pytest.approx(row["torch_ms"] / row["engine_ms"])
        assert row["max_difference"] <= 1
