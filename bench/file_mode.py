"""File to file: the clip goes through the product's own session, decoding and encoding included."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine.backends.base import Backend, LaneSpec
from engine.upscaler import Upscaler
from server.session import upscale_video
from server.video_options import VideoOptions

CLIPS = Path(__file__).resolve().parents[1] / "tests" / "data" / "demo"


@dataclass(frozen=True, slots=True)
class FileRun:
    """What came out."""

    seconds: float
    frames_in: int
    frames_out: int
    stages: dict[str, dict[str, float]]
    """Of the manifest: stage -> p50_ms, p95_ms."""
    frame_memory: dict[str, str]
    """Of the manifest: where the frames were, and why on the host."""

    @property
    def fps(self) -> float:
        """Frames per second from the first byte read to the file renamed into place."""
        return self.frames_out / self.seconds


def clip_for(height: int, width: int) -> Path:
    """The bundled clip of this size. Raises FileNotFoundError when there is none."""
    path = CLIPS / f"city_{width}x{height}.mp4"
    if not path.is_file():
        raise FileNotFoundError(f"no bundled clip is {width}x{height}: give one with --clip")
    return path


def run_file(backend: Backend, clip: Path, lanes: int, codec: str, spec: LaneSpec) -> FileRun:
    """Upscales ``clip`` into a temporary file. The backend stays open.

    Raises:
        ValueError: the clip is not of the size of ``spec``: the proof would name another.
    """
    upscaler = Upscaler(backend, lanes)
    # A frame like the one before it is not worth a claim: every frame is computed.
    options = VideoOptions(
        codec=codec, real_time=True, reuse_duplicates=False, formats=(spec.format,)
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        manifest = upscale_video(clip, Path(folder) / "out.mp4", upscaler, options)
        seconds = time.perf_counter() - begun
    found = manifest.input["width"], manifest.input["height"]
    if found != (spec.width, spec.height):
        raise ValueError(f"{clip.name} is {found[0]}x{found[1]}: say so with --size")
    return FileRun(
        seconds, manifest.frames_in, manifest.frames_encoded, manifest.stages, manifest.frame_memory
    )
