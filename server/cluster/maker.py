"""The actor that makes segments: one engine on one device of one node.

It is given a segment and hands back its bytes; it keeps nothing but its engine and, where the
source is not on a file system that all nodes share, a copy of the source. Knows no other actor.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.backends.base import BackendInfo
from engine.errors import EngineError
from engine.selection import BackendName, open_backend
from engine.upscaler import Upscaler
from server.media.child import error_message
from server.media.errors import CodecUnavailable, EncodeError, MediaError
from server.media.ledger import Header, Row
from server.media.timing import Stages
from server.segment_plan import Work, source_mark
from server.segments import make_segments

_PREFIX = "sr-cluster-"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine every node opens."""

    backend: BackendName = "auto"
    model: str = "auto"
    threads: int | None = None
    weights: bytes | None = None
    """Content of the file that ``model`` names; None for a name that every node knows."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished segment."""

    row: Row
    content: bytes
    stages: Stages


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a segment was not made."""

    message: dict[str, Any]
    """As ``server.media.child.error_message``."""
    final: bool
    """Another node would fail at it, too."""


class SegmentMaker:
    """Becomes a Ray actor; every method is called from the driver."""

    def __init__(self, choice: EngineChoice) -> None:
        self._choice = choice
        self._folder, self._lock = _private_folder()
        self._source: Path | None = None
        self._upscaler: Upscaler | None = None

    def open(self) -> BackendInfo | str:
        """Opens the engine; who runs the frames, or one sentence why nobody does."""
        model = self._choice.model
        if self._choice.weights is not None:
            path = self._folder / Path(model).name
            path.write_bytes(self._choice.weights)
            model = str(path)
        try:
            backend = open_backend(self._choice.backend, model, threads=self._choice.threads)
        except EngineError as error:
            return str(error)
        self._upscaler = Upscaler(backend)
        return self._upscaler.info

    def has(self, source: Path, mark: str) -> bool:
        """Whether this node sees the source itself; ``mark`` is its ``source_mark``."""
        with suppress(OSError):
            if source.is_file() and source_mark(source) == mark:
                self._source = source
                return True
        return False

    def fetch(self, chunks: Sequence[Any]) -> None:
        """Copies the source out of the object store; ``chunks`` are references, in order."""
        ray = importlib.import_module("ray")
        path = self._folder / "source"
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(ray.get(chunk))
        self._source = path

    def make(self, work: Work, header: Header, number: int) -> Made | Failed:
        """One segment of ``work``, whose paths are replaced by this node's."""
        assert self._source is not None
        assert self._upscaler is not None
        folder = self._folder / "segments"
        folder.mkdir(exist_ok=True)
        rows: list[Row] = []
        try:
            stages = make_segments(
                replace(work, source=self._source, folder=folder),
                header,
                range(number, number + 1),
                self._upscaler,
                rows.append,
                check=lambda: None,
            )
            path = folder / rows[0].file
            content = path.read_bytes() if rows[0].pts else b""
            return Made(rows[0], content, stages)
        except MediaError as error:
            return Failed(error_message(error), final=True)
        except (EncodeError, EngineError) as error:
            codec = isinstance(error, CodecUnavailable)
            return Failed(error_message(_as_encode_error(error)), final=codec)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            text = f"A node of the cluster could not write a segment ({why})."
            return Failed(error_message(EncodeError(text)), final=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Frees the engine and removes the copy of the source."""
        if self._upscaler is not None:
            self._upscaler.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def _as_encode_error(error: EncodeError | EngineError) -> EncodeError:
    return error if isinstance(error, EncodeError) else EncodeError(str(error))


def _private_folder() -> tuple[Path, int]:
    """A folder of this process, and its lock; those of processes that were killed are removed."""
    root = Path(tempfile.gettempdir())
    for old in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(old / "lock", os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock
