"""H.264 in memory: what a coded video does to a picture, and reading the frames of a clip.

The only file of the trainer that imports ``av``, and only when it is called (ADR: av in the
trainer). Serving has its own, stricter reader; this one is for training data that one trusts.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.bicubic import Picture
from trainer.errors import DataError

if TYPE_CHECKING:
    from av import VideoFrame


def coded_copies(frames: list[Picture], crf: int, preset: str = "veryfast") -> list[Picture]:
    """Encodes and decodes a clip: (H, W, 3) uint8 frames -> as many of the same shape.

    Args:
        frames: of equal, even size; 4:2:0 needs that.
        crf: constant rate factor, 0..51; 18 is hardly visible, 35 is bad.
        preset: of x264.
    """
    import av

    height, width = frames[0].shape[:2]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuv420p"
    encoder.thread_count = 1
    encoder.framerate = Fraction(30)
    # x264's macroblock tree reads memory that nobody wrote (1 clip in 100 to 1 in 10 came out
    # different), and a resumed run must see the same pictures.
    encoder.options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
    packets = []
    for index, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = []
    for packet in [*packets, None]:
        decoded += decoder.decode(packet)
    return [_picture(frame) for frame in decoded]


def _picture(frame: VideoFrame) -> Picture:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def read_clip(path: Path, limit: int) -> Iterator[Picture]:
    """The first ``limit`` frames of a video, (H, W, 3) uint8. Raises DataError when unreadable."""
    import av

    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index == limit:
                    return
                yield _picture(frame)
    except (OSError, IndexError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a video ({error}); give another one") from error
