"""Where a video can be cut: the parent's side of ``server.media.key_frames``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from server.media.child import Child
from server.media.decode import DecodeOptions
from server.media.limits import Limits


@dataclass(frozen=True, slots=True)
class KeyFrames:
    """The packets of a video, without having decoded them."""

    packets: int
    last_pts: int
    keys: tuple[int, ...]
    """pts of the key frames where a cut is safe, in ``VideoInfo.time_base`` units, in order."""
    problem: str | None
    """Why the video must stay whole."""


def find_key_frames(
    source: Path, limits: Limits, check: Callable[[], None] | None = None
) -> KeyFrames:
    """Reads the video packets of ``source`` in a child.

    Args:
        source: a real file.
        limits: of media.
        check: called several times a second while waiting; raises to give up.

    Raises:
        UnsupportedMedia, UnusableMedia, OverLimit: it cannot be read.
    """
    with Child("server.media.decode_child", "decoding") as child:
        command = asdict(DecodeOptions(limits)) | {"source": str(source.absolute()), "scan": True}
        child.send(command)
        while True:
            message = child.receive(limits.no_progress_seconds, check)
            if message["type"] == "scan":
                return KeyFrames(
                    packets=message["packets"],
                    last_pts=message["last_pts"],
                    keys=tuple(message["keys"]),
                    problem=message["problem"],
                )
