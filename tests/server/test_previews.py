"""Pictures of running jobs, which several workers may leave at the same place."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.workers.preview import replace_file


def test_two_workers_may_replace_one_preview_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview, rename = tmp_path / "preview.jpg", Path.replace

    def after_another_worker(partial: Path, target: Path) -> Path:
        """The other one comes in between: its picture is written and in place first."""
        monkeypatch.setattr(Path, "replace", rename)
        replace_file(preview, b"the other's")
        assert preview.read_bytes() == b"the other's"
        return rename(partial, target)

    monkeypatch.setattr(Path, "replace", after_another_worker)
    replace_file(preview, b"ours")
    assert preview.read_bytes() == b"ours"
    assert [path.name for path in tmp_path.iterdir()] == ["preview.jpg"]


def test_a_preview_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "preview.jpg").mkdir()
    with pytest.raises(OSError, match="preview"):
        replace_file(tmp_path / "preview.jpg", b"ours")
    assert [path.name for path in tmp_path.iterdir()] == ["preview.jpg"]
