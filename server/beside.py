"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(final: Path) -> Iterator[Path]:
    """A temporary path that becomes ``final`` if all goes well and vanishes otherwise.

    The content and the new name are on the disk when the block has been left.

    Raises:
        OSError: the file or its folder cannot be written.
    """
    partial = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        # Before the work, and under the name that the user knows.
        partial.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(final)) from error
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_whole(final: Path, content: bytes) -> None:
    """Writes ``content`` to ``final`` by way of a temporary file. Raises OSError."""
    with written_beside(final) as partial:
        partial.write_bytes(content)
