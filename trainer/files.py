"""Files that are whole or not there: written beside their place, synced, renamed over it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from trainer.errors import TrainerError

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<process>[1-9]\d*)\.tmp")
"""What :func:`replace_file` writes before it is renamed."""


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


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes what a process that was killed while it wrote left in ``folder``.

    For the start of a run: processes of other machines that write there now are not seen.

    Args:
        name: of the file that was to be written; None is all of them.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = LEFTOVER.fullmatch(path.name)
            if found and name in (None, found["name"]) and not _lives(int(found["process"])):
                with suppress(OSError):
                    path.unlink()


def _lives(process: int) -> bool:
    if process == os.getpid():
        return False  # this one writes one file at a time, so what has its number is older
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of another user, or no number that a process has
    return True


def unwritable(path: Path, error: OSError, option: str = "--out") -> TrainerError:
    """The sentence about a file or folder that cannot be written."""
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    why = "a file is where a folder must be" if in_the_way else error.strerror or error
    return TrainerError(f"{path} cannot be written ({why}); free space or choose another {option}")
