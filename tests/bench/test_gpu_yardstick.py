"""The yardstick without a GPU: one failure does not stop the rest."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the yardstick needs the train extra")


def test_what_fails_is_said_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.gpu_yardstick import tried

    def fail() -> dict[str, Any]:
        raise RuntimeError("an illegal memory access was encountered")

    assert tried(lambda: {"fps": 1}) == {"fps": 1}
    assert tried(fail) == {"error": "RuntimeError: an illegal memory access was encountered"}
    assert "Traceback" in capsys.readouterr().err
