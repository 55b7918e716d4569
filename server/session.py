"""One video from end to end: decode -> upscale -> encode, each overlapping the others.

Decoder and encoder are child processes with bounded rings of frames, the upscaler keeps several
frames in flight, so that three stages run at once while this module stays one plain loop. Knows
neither HTTP nor PyAV. As many frames come out as the decoder emitted, or the job fails.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.backends.base import BackendInfo, LaneSpec
from engine.contract import SCALE
from engine.frames import Frame, Nv12
from server.beside import written_beside
from server.manifest import Manifest, pts_sha256
from server.media.codecs import CONTAINERS, DEFAULT_CODEC, ContainerName, find_codec
from server.media.decode import DecodeOptions, Decoder, DecodeSummary
from server.media.encode import Companions, EncodeOptions, Encoder, EncodeSummary
from server.media.errors import Cancelled, CodecUnavailable, EncodeError, UnusableMedia
from server.media.limits import Limits, command_line_limits
from server.media.probe import VideoInfo
from server.media.resample import target_size
from server.media.structure import missing_bytes
from server.media.timing import StageTimes

_PIPE_READ_BYTES = 256 * 1024


class FrameUpscaler(Protocol):
    """What a session needs of ``engine.upscaler.Upscaler``."""

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""

    def stream(
        self, frames: Iterator[Frame], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        """Frames x4, in order; without ``copy`` each is valid until the next is asked for."""


class ByteSink(Protocol):
    """Where a streamed video goes."""

    def write(self, data: bytes, /) -> object:
        """Takes all of ``data``; may block, which slows the whole session down."""


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What the user may choose about a video."""

    codec: str = DEFAULT_CODEC
    """Encoder: ``libx264``, ``libx265``, ``libsvtav1``, ``h264_nvenc``, ``hevc_nvenc``,
    ``av1_nvenc``, or ``h264``, ``hevc``, ``av1``."""
    quality: int | None = None
    """Constant quality of the codec: 0 is best, 51 (AV1: 63) worst; None is the codec's default."""
    preset: str | None = None
    """The encoder's own speed preset; None is a fast one."""
    height: int | None = None
    """Height of the result in pixels; the x4 picture is averaged down to it."""
    size: tuple[int, int] | None = None
    """(width, height) of the result in pixels."""
    container: ContainerName | None = None
    """``mp4``, ``mov`` or ``mkv``; None: from the name of the output file, else MP4."""
    start_seconds: float | None = None
    """First moment wanted; the result then starts at zero."""
    end_seconds: float | None = None
    """First moment not wanted any more."""
    strict: bool = False
    """Refuse damaged or cut input instead of reporting it."""
    real_time: bool = False
    """Prefer speed over size."""
    reuse_duplicates: bool = True
    """Take the previous result for a frame that is exactly like the previous one."""
    formats: tuple[str, ...] = ("nv12", "rgb24")
    """Frame formats that the backend takes."""
    limits: Limits = field(default_factory=command_line_limits)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is."""

    frames: int
    frames_total: int | None
    """An estimate; None when the container says nothing."""
    seconds: float
    fps: float
    eta_seconds: float | None


OnProgress = Callable[[Progress], None]


def upscale_video(
    source: Path,
    sink: Path | ByteSink,
    upscaler: FrameUpscaler,
    options: VideoOptions | None = None,
    on_progress: OnProgress | None = None,
    *,
    cancelled: Callable[[], bool] = bool,
) -> Manifest:
    """Makes a video four times larger (or ``height``/``size``), with everything else it holds.

    Args:
        source: a real file; its name is never interpreted.
        sink: a path, written beside and renamed at the end, or something to write a stream to
            while it is made (fragmented MP4 or MKV). After an error a stream is cut short.
        upscaler: runs the frames; stays open.
        options: what the user chose.
        on_progress: called after every frame.
        cancelled: asked for every frame and a few times a second while waiting.

    Raises:
        UnsupportedMedia, UnusableMedia, OverLimit: the input.
        CodecUnavailable, DiskFull, EncodeError: the output.
        EngineError: the upscaler.
        Cancelled: ``cancelled`` returned true.
        OSError: ``source`` cannot be read or ``sink`` not be written.
    """
    options = options or VideoOptions()
    check = _checker(cancelled)
    missing = missing_bytes(source)
    if missing and options.strict:
        raise _truncated(f"{missing} bytes are missing at its end")
    container = _container(options, sink)
    find_codec(options.codec)
    run = _Run(source, upscaler, options, container, on_progress, check, missing)
    if isinstance(sink, Path):
        with written_beside(sink) as partial:
            return run.to(partial)
    with _pipe_into(sink, check) as (writing_end, guard):
        run.check = guard
        return run.to(writing_end)


@dataclass
class _Run:
    """The state of one session."""

    source: Path
    upscaler: FrameUpscaler
    options: VideoOptions
    container: ContainerName
    on_progress: OnProgress | None
    check: Callable[[], None]
    missing: int
    ledger: list[int] = field(default_factory=list)
    frames_out: int = 0
    reused: int = 0
    times: StageTimes = field(default_factory=StageTimes)
    started: float = field(default_factory=time.monotonic)

    def to(self, output: Path | _WritingEnd) -> Manifest:
        """Runs the whole session into a file or a pipe."""
        options = self.options
        with ExitStack() as stack:
            if isinstance(output, _WritingEnd):
                stack.callback(output.close)
            decoder = stack.enter_context(
                Decoder(
                    self.source,
                    DecodeOptions(
                        options.limits,
                        options.start_seconds,
                        options.end_seconds,
                        options.strict,
                        options.formats,
                    ),
                    self.check,
                )
            )
            info = decoder.info
            encode = _encode_options(info, options, self.container)
            encoder = stack.enter_context(
                Encoder(
                    encode,
                    _companions(self.source, info, options),
                    output if isinstance(output, Path) else output.descriptor,
                    self.check,
                )
            )
            if isinstance(output, _WritingEnd):
                output.close()  # the child holds the only one now, so that its end is the end
            self._pump(decoder, encoder)
            summary = encoder.finish()
            assert decoder.summary is not None
            self._verify(decoder.summary, summary)
            return _manifest(self, info, encode, decoder.summary, encoder, summary)

    def _pump(self, decoder: Decoder, encoder: Encoder) -> None:
        info = decoder.info
        spec = LaneSpec(
            info.height,
            info.width,
            "nv12" if info.frame_format == "nv12" else "rgb24",
            info.colour.matrix_name or "bt709",
            bool(info.colour.full_range),
        )
        shift = info.start_pts if self.options.start_seconds is not None else 0
        moments: list[list[tuple[int, int]]] = []
        frames = self._unique(decoder, moments, shift)
        with closing(self.upscaler.stream(frames, spec, copy=False)) as results:
            for index, result in enumerate(self.times.each("upscale", results)):
                self.check()
                if index:
                    self._repeat(encoder, moments[index - 1], info)
                with self.times.measure("write"):
                    encoder.put(result, *moments[index][0])
                self._advance(info)
            if moments:
                self._repeat(encoder, moments[-1], info)

    def _unique(
        self, decoder: Decoder, moments: list[list[tuple[int, int]]], shift: int
    ) -> Iterator[Frame]:
        """Frames that differ from their predecessor; when each is shown goes into ``moments``."""
        previous: Frame | None = None
        for decoded in self.times.each("decode", iter(decoder), inside="upscale"):
            moment = (decoded.pts - shift, decoded.duration)
            self.ledger.append(decoded.pts - shift)
            same = self.options.reuse_duplicates and _equal(previous, decoded.frame)
            if same:
                moments[-1].append(moment)
                continue
            moments.append([moment])
            previous = decoded.frame
            yield decoded.frame

    def _repeat(self, encoder: Encoder, moments: list[tuple[int, int]], info: VideoInfo) -> None:
        for moment in moments[1:]:
            encoder.repeat(*moment)
            self.reused += 1
            self._advance(info)
        del moments[1:]

    def _advance(self, info: VideoInfo) -> None:
        self.frames_out += 1
        if self.on_progress is None:
            return
        seconds = time.monotonic() - self.started
        fps = self.frames_out / seconds if seconds > 0 else 0.0
        total = _expected_frames(info, self.options)
        left = None if total is None or not fps else max(total - self.frames_out, 0) / fps
        self.on_progress(Progress(self.frames_out, total, seconds, fps, left))

    def _verify(self, decoded: DecodeSummary, encoded: EncodeSummary) -> None:
        """Frames out == frames the decoder emitted, all the way to the packets."""
        counts = {
            "decoded": decoded.frames,
            "upscaled": self.frames_out,
            "encoded": encoded.frames,
            "written": encoded.packets,
        }
        if len(set(counts.values())) != 1:
            text = ", ".join(f"{number} {stage}" for stage, number in counts.items())
            raise EncodeError(f"Frames were lost ({text}); this is a bug, please report it.")


def _equal(previous: Frame | None, frame: Frame) -> bool:
    if previous is None:
        return False
    if isinstance(frame, Nv12) and isinstance(previous, Nv12):
        return np.array_equal(previous.y, frame.y) and np.array_equal(previous.uv, frame.uv)
    assert not isinstance(frame, Nv12)
    assert not isinstance(previous, Nv12)
    return np.array_equal(previous, frame)


def _checker(cancelled: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if cancelled():
            raise Cancelled("The job was cancelled.")

    return check


def _container(options: VideoOptions, sink: Path | ByteSink) -> ContainerName:
    if options.container is not None:
        return options.container
    if not isinstance(sink, Path):
        return "mp4"
    suffix = sink.suffix.lower().lstrip(".")
    for name in CONTAINERS:
        if suffix == name or (suffix, name) == ("m4v", "mp4"):
            return name
    raise CodecUnavailable(
        f"The output name ends in {sink.suffix!r}; use .mp4, .mov or .mkv for a video."
    )


def _encode_options(
    info: VideoInfo, options: VideoOptions, container: ContainerName
) -> EncodeOptions:
    height, width = info.height * SCALE, info.width * SCALE
    try:
        out_height, out_width = target_size(
            height, width, wanted_height=options.height, wanted_size=options.size
        )
    except ValueError as error:
        raise CodecUnavailable(f"{str(error).capitalize()}.") from error
    if options.size is None and options.height is not None:
        out_width += out_width % 2  # chroma is shared by two columns
    return EncodeOptions(
        codec=options.codec,
        container=container,
        frame_format=info.frame_format,
        width=width,
        height=height,
        out_width=min(out_width, width),
        out_height=out_height,
        time_base=info.time_base,
        rate=info.average_rate,
        colour=info.colour,
        quality=options.quality,
        preset=options.preset,
        real_time=options.real_time,
        sample_aspect_ratio=info.sample_aspect_ratio,
        display_matrix=info.display_matrix,
    )


def _companions(source: Path, info: VideoInfo, options: VideoOptions) -> Companions:
    start = info.start_pts * info.time_base if options.start_seconds is not None else None
    end = None
    if options.end_seconds is not None:
        end = info.start_seconds + Fraction(str(options.end_seconds))
    return Companions(source, info.video_index, options.limits, start, end, start)


def _expected_frames(info: VideoInfo, options: VideoOptions) -> int | None:
    whole = info.start_seconds * 0 if info.duration_seconds is None else info.duration_seconds
    if not whole or info.average_rate is None:
        return info.frames_promised or None
    if options.start_seconds is None and options.end_seconds is None and info.frames_promised:
        return info.frames_promised
    end = min(options.end_seconds or float(whole), float(whole))
    return max(round((end - (options.start_seconds or 0.0)) * float(info.average_rate)), 1)


class _WritingEnd:
    """The writing end of a pipe, closed exactly once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Closes it; harmless when called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@contextmanager
def _pipe_into(
    sink: ByteSink, check: Callable[[], None]
) -> Iterator[tuple[_WritingEnd, Callable[[], None]]]:
    """A pipe whose other end a thread reads into ``sink``; its errors surface in the check."""
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def drain() -> None:
        try:
            while data := os.read(reading, _PIPE_READ_BYTES):
                sink.write(data)
        # Whatever a sink does (a client that left, a full disk) is told to the session.
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(reading)

    def guard() -> None:
        check()
        if failures:
            raise failures[0]

    thread = threading.Thread(target=drain, name="drain", daemon=True)
    thread.start()
    try:
        yield _WritingEnd(writing), guard
    except BaseException:
        thread.join(5.0)
        raise
    thread.join()
    if failures:
        raise failures[0]


def _truncated(what: str) -> UnusableMedia:
    return UnusableMedia(
        f"The video is cut short ({what}), and strict was asked for.", code="truncated"
    )


def _manifest(
    run: _Run,
    info: VideoInfo,
    encode: EncodeOptions,
    decoded: DecodeSummary,
    encoder: Encoder,
    encoded: EncodeSummary,
) -> Manifest:
    short = _frames_short(info, decoded)
    if short and run.options.strict:
        raise _truncated(f"{short} of {info.frames_promised} frames are missing")
    seconds = time.monotonic() - run.started
    backend = asdict(run.upscaler.info)
    first, last = run.ledger[0] * info.time_base, run.ledger[-1] * info.time_base
    return Manifest(
        frames_in=decoded.frames,
        frames_out=run.frames_out,
        frames_encoded=encoded.frames,
        frames_reused=run.reused,
        frames_skipped=decoded.skipped,
        corrupt_frames=decoded.corrupt,
        decode_errors=decoded.decode_errors,
        pts_sha256=pts_sha256(run.ledger, info.time_base),
        time_base=str(info.time_base),
        first_pts_seconds=str(first),
        last_pts_seconds=str(last),
        input=_input_entry(info),
        output={
            "container": encode.container,
            "codec": find_codec(encode.codec).encoder,
            "width": encode.out_width,
            "height": encode.out_height,
            "colour": asdict(encode.colour),
            "clock": _clock_note(encode, info, encoded),
        },
        input_truncated=bool(run.missing or short or decoded.demux_error),
        copied=encoder.copied,
        dropped=encoder.dropped,
        backend=backend,
        stages=run.times.summary() | {name: dict(v) for name, v in encoded.stages.items()},
        seconds=round(seconds, 3),
        fps=round(run.frames_out / seconds, 3),
        warnings=_warnings(run, info, decoded, short),
    )


def _frames_short(info: VideoInfo, decoded: DecodeSummary) -> int:
    """Frames that the container promised and does not have. Only MP4 counts its own packets."""
    if info.container != "mov" or decoded.stopped_early or decoded.skipped:
        return 0
    return max(info.frames_promised - decoded.packets, 0)


def _input_entry(info: VideoInfo) -> dict[str, object]:
    return {
        "container": info.container,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "pixel_format": info.pixel_format,
        "frame_format": info.frame_format,
        "colour": asdict(info.colour),
        "average_rate": None if info.average_rate is None else str(info.average_rate),
    }


def _clock_note(encode: EncodeOptions, info: VideoInfo, encoded: EncodeSummary) -> str:
    if encode.container != "mkv":
        return "every pts is exact"
    note = "every pts is the nearest millisecond, the clock of Matroska"
    if encoded.shift_seconds > 0:
        note += f"; all streams begin {float(encoded.shift_seconds):.3f} s later, to be positive"
    return note


def _warnings(run: _Run, info: VideoInfo, decoded: DecodeSummary, short: int) -> list[str]:
    found = [
        (run.missing, f"the input is cut short: {run.missing} bytes are missing"),
        (short, f"{short} of {info.frames_promised} promised frames are missing"),
        (decoded.demux_error, f"reading stopped early ({decoded.demux_error})"),
        (decoded.decode_errors, f"{decoded.decode_errors} packets could not be decoded"),
        (decoded.corrupt, f"{decoded.corrupt} frames are damaged"),
        (decoded.interlaced, f"{decoded.interlaced} frames are interlaced; lines were kept"),
        (decoded.pts_repaired, f"{decoded.pts_repaired} time stamps were missing or went back"),
        (decoded.colour_changed, f"{decoded.colour_changed} frames have another colour tag"),
        (info.bit_depth > 8, f"{info.bit_depth}-bit samples were reduced to 8 bits"),
    ]
    return [text for condition, text in found if condition]
