"""Files that are whole or not there: written beside their place, synced, renamed over it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from trainer.errors import TrainerError


def replace_file(path: Path, content: bytes, option: str = "--out") -> None:
    """Gives ``path`` the ``content``; the folders above it are made.

    Args:
        option: what a user moves the file elsewhere with, for the message.

    Raises:
        TrainerError: the disk is full or the folder cannot be written; ``path`` is as it was and
            nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error, option) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError, option: str = "--out") -> TrainerError:
    """The sentence about a file or folder that cannot be written."""
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    why = "a file is where a folder must be" if in_the_way else error.strerror or error
    return TrainerError(f"{path} cannot be written ({why}); free space or choose another {option}")
