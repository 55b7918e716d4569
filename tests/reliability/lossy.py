"""Two builds that lose a frame, as positive controls of the integrity ledger."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import av

from engine.backends.base import LaneSpec
from engine.backends.nearest import NearestBackend
from engine.frames import Frame
from engine.upscaler import Upscaler
from server.manifest import Manifest
from server.session import upscale_video
from server.video_options import VideoOptions

SOURCES = (
    "odd video/h264 in mp4 with sound",
    "odd video/variable rate",
    "odd video/negative decoding times",
)
"""Enough for a control."""


class _Forgetful(Upscaler):
    """Leaves the third frame out."""

    def stream(
        self, frames: Iterator[Frame | None], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        for index, frame in enumerate(super().stream(frames, spec, copy=copy)):
            if index != 2:
                yield frame


def engine_that_loses_a_frame(
    source: Path, output: Path, upscaler: Upscaler, options: VideoOptions
) -> Manifest:
    """What the product's own counts must notice."""
    with _Forgetful(NearestBackend()) as forgetful:
        return upscale_video(source, output, forgetful, options)


def session_that_loses_a_frame(
    source: Path, output: Path, upscaler: Upscaler, options: VideoOptions
) -> Manifest:
    """Writes a frame less than its manifest says: only who reads the result again can notice."""
    manifest = upscale_video(source, output, upscaler, options)
    whole = output.with_name(f"whole{output.suffix}")
    output.rename(whole)
    try:
        with av.open(str(whole)) as before, av.open(str(output), "w") as after:
            streams = {
                stream.index: after.add_stream_from_template(stream) for stream in before.streams
            }
            pictures = [packet for packet in before.demux(video=0) if packet.size]
            before.seek(0)
            for packet in before.demux():
                is_last = (packet.stream.type, packet.dts) == ("video", pictures[-1].dts)
                if packet.size and not is_last:
                    packet.stream = streams[packet.stream_index]
                    after.mux(packet)
    finally:
        whole.unlink()
    return manifest
