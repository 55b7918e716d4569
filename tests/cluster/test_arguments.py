"""``--cluster`` with an address, without one, and where it means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.upscale_arguments import with_address
from server.upscale_cli import main
from tests.server.live import png


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b", "--cluster"], ["a", "b", "--cluster", "auto"]),
        (["--cluster", "a.mp4", "b.mp4"], ["--cluster", "auto", "a.mp4", "b.mp4"]),
        (["--cluster", "--model", "fast"], ["--cluster", "auto", "--model", "fast"]),
        (["--cluster", "local", "a"], ["--cluster", "local", "a"]),
        (["--cluster", "head.example:6379"], ["--cluster", "head.example:6379"]),
        (["--cluster", "[fd00::1]:6379"], ["--cluster", "[fd00::1]:6379"]),
        (["--cluster=head:1", "a"], ["--cluster=head:1", "a"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_an_address_is_only_what_looks_like_one(given: list[str], expected: list[str]) -> None:
    assert with_address(given) == expected


def test_a_picture_needs_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(png())
    assert main([str(source), str(tmp_path / "b.png"), "--cluster"]) == 2
    assert "--cluster means nothing" in capsys.readouterr().err
