"""How many bits a pixel of a result takes, by codec and quality: what ``dry_run`` estimates from.

Upscales some frames of each clip once with the shipped ``fast`` network, thinned to a small size
and cut from the middle in full detail, encodes them with every codec at several qualities, and
tells the key frame from the others, because a job has one in ten seconds. Ends with one line of
JSON; ``server/jobs/estimate.py`` holds the constants that it led to.

    python bench/result_size.py --side 320 --frames 30 CLIP...
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import av
import numpy as np

from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.frames import Bytes
from engine.models import load_model
from engine.upscaler import Upscaler
from server.media.codecs import CODECS, encoder_options

QUALITIES = {
    "libx264": (12, 18, 24, 30),
    "libx265": (15, 21, 27, 33),
    "libsvtav1": (18, 28, 38, 50),
}
KEY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Clip:
    """The first frames of a video, x4."""

    name: str
    rate: Fraction
    frames: list[Bytes]


def upscaled(path: Path, upscaler: Upscaler, side: int, count: int) -> list[Clip]:
    """The first frames, thinned as a whole and in full detail from the middle."""
    whole, middle = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 25)
        share = min(1.0, side / max(stream.width, stream.height))
        size = [round(length * share) // 2 * 2 for length in (stream.width, stream.height)]
        for _, frame in zip(range(count), container.decode(stream), strict=False):
            whole.append(frame.reformat(*size, "rgb24").to_ndarray())
            middle.append(_middle(frame.to_ndarray(format="rgb24"), side))
    return [
        Clip(f"{path.stem} {kind}", rate, [_x4(each, upscaler) for each in pictures])
        for kind, pictures in (("thinned", whole), ("middle", middle))
    ]


def _middle(picture: Bytes, side: int) -> Bytes:
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def _x4(picture: Bytes, upscaler: Upscaler) -> Bytes:
    return np.asarray(upscaler.upscale(np.ascontiguousarray(picture)))


def bits_per_pixel(clip: Clip, codec_name: str, quality: int) -> float:
    """Of a long video like this clip: one key frame in ten seconds, the rest like the rest."""
    codec = CODECS[codec_name]
    buffer, sizes = io.BytesIO(), []
    height, width = clip.frames[0].shape[:2]
    with av.open(buffer, "w", "matroska") as container:
        stream = container.add_stream(codec_name, rate=clip.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = encoder_options(
            codec, quality=quality, preset=None, pace="file", gop_frames=1000
        )
        for frame in [*clip.frames, None]:
            picture = None if frame is None else av.VideoFrame.from_ndarray(frame, "rgb24")
            sizes += [packet.size for packet in stream.encode(picture)]
    key, others = sizes[0], sum(sizes[1:]) / (len(sizes) - 1)
    gop = max(1, round(KEY_SECONDS * clip.rate))
    return (key + (gop - 1) * others) / gop * 8 / (width * height)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=320, help="pixels of the longer side")
    parser.add_argument("--frames", type=int, default=30)
    arguments = parser.parse_args()
    with Upscaler(OnnxRuntimeBackend(load_model("fast"))) as upscaler:
        clips = [
            clip
            for path in arguments.clips
            for clip in upscaled(path, upscaler, arguments.side, arguments.frames)
        ]
    found: dict[str, dict[int, dict[str, float]]] = {}
    for codec, qualities in QUALITIES.items():
        for quality in qualities:
            row = {clip.name: round(bits_per_pixel(clip, codec, quality), 4) for clip in clips}
            found.setdefault(codec, {})[quality] = row
            print(f"{codec} {quality}: median {median(row.values()):.4f} {row}", file=sys.stderr)
    command = " ".join(["python", "bench/result_size.py", *sys.argv[1:]])
    print(json.dumps({"schema": 1, "bits_per_pixel": found, "command": command}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
