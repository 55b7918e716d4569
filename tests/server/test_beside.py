"""Files appear whole or not at all, and failures name the file that the user asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.beside import write_whole, written_beside


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with written_beside(tmp_path / "out") as partial:
        partial.write_bytes(b"whole")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    write_whole(tmp_path / "out", b"before")

    def break_off() -> None:
        with written_beside(tmp_path / "out") as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert (tmp_path / "out").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_told_before_the_work_under_the_users_name(tmp_path: Path) -> None:
    final = tmp_path / "missing" / "out.png"
    with pytest.raises(FileNotFoundError) as caught, written_beside(final):
        pytest.fail("the work began")
    assert caught.value.filename == str(final)
