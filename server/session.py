"""One video from end to end: decode -> upscale -> encode, each overlapping the others.

Decoder and encoder are child processes with bounded rings of frames, the upscaler keeps several
frames in flight, so that three stages run at once while this module stays one plain loop. Knows
neither HTTP nor PyAV. As many frames come out as the decoder emitted, or the job fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract import SCALE
from server.beside import written_beside
from server.flow import FrameFlow, FrameUpscaler
from server.manifest import Manifest
from server.media.codecs import ContainerName, find_codec
from server.media.decode import DecodeOptions, Decoder
from server.media.encode import Companions, EncodeOptions, Encoder
from server.media.errors import Cancelled, CodecUnavailable
from server.media.probe import VideoInfo
from server.media.resample import target_size
from server.media.structure import missing_bytes
from server.outputs import ByteSink, WritingEnd, pipe_into
from server.report import Facts, build_manifest, truncated
from server.video_options import (
    OnProgress,
    Progress,
    VideoOptions,
    choose_container,
    expected_frames,
)
from server.video_path import HOST, DeviceFlow, DevicePath, Job, find_device

if TYPE_CHECKING:  # PyAV is loaded in the engine's process only where it is used
    from server.media.nvidia_codecs import DeviceCodecs


def upscale_video(
    source: Path,
    sink: Path | ByteSink,
    upscaler: FrameUpscaler,
    options: VideoOptions | None = None,
    on_progress: OnProgress | None = None,
    *,
    cancelled: Callable[[], bool] = bool,
    device_codecs: DeviceCodecs | None = None,
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
        device_codecs: codecs over the memory of the upscaler's device; None is NVIDIA's.

    Raises:
        UnsupportedMedia, UnusableMedia, OverLimit: the input.
        CodecUnavailable, DiskFull, EncodeError: the output.
        EngineError: the upscaler.
        Cancelled: ``cancelled`` returned true.
        OSError: ``source`` cannot be read or ``sink`` not be written.
    """
    options = options or VideoOptions()
    check = checker(cancelled)
    missing = check_complete(source, options)
    container = choose_container(options, sink if isinstance(sink, Path) else None)
    find_codec(options.codec)
    run = _Run(source, upscaler, options, container, on_progress, check, missing, device_codecs)
    if isinstance(sink, Path):
        with written_beside(sink) as partial:
            return run.to(partial)
    with pipe_into(sink, check) as (writing_end, guard):
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
    device_codecs: DeviceCodecs | None = None
    started: float = field(default_factory=time.monotonic)

    def to(self, output: Path | WritingEnd) -> Manifest:
        """Runs the whole session into a file or a pipe."""
        options = self.options
        with ExitStack() as stack:
            if isinstance(output, WritingEnd):
                stack.callback(output.close)
            decoder = Decoder(self.source, decode_options(options), self.check)
            stack.enter_context(decoder)
            info = decoder.info
            encode = encode_options(info, options, self.container)
            path, note = self._path(decoder, encode, stack)
            encoder = stack.enter_context(self._encoder(path, encode, info, output))
            if isinstance(output, WritingEnd):
                output.close()  # the child holds the only one now, so that its end is the end
            flow = self._flow(path, decoder)
            self._pump(flow, encoder, info)
            encoded = encoder.finish()
            decoded = decoder.summary if path is None else path.summary
            assert decoded is not None
            return build_manifest(
                Facts(
                    info=info,
                    encode=encode,
                    decoded=decoded,
                    encoded=encoded,
                    backend=self.upscaler.info,
                    ledger=flow.ledger,
                    frames_reused=flow.reused,
                    frames_promised=info.frames_promised,
                    missing_bytes=self.missing,
                    strict=options.strict,
                    copied=encoder.copied,
                    dropped=encoder.dropped,
                    stages=flow.times.summary(),
                    seconds=time.monotonic() - self.started,
                    frame_memory=note,
                )
            )

    def _path(
        self, decoder: Decoder, encode: EncodeOptions, stack: ExitStack
    ) -> tuple[DevicePath | None, dict[str, str]]:
        """The way through device memory, where there is one, and what the manifest says of it."""
        decode = decode_options(self.options)
        job = Job(
            self.source, decoder.info, decode, encode, self.upscaler, self.check, self.device_codecs
        )
        device, reason = find_device(job)
        if device is None:
            return None, {"decode": HOST, "encode": HOST, "reason": reason}
        path = DevicePath(job, device, decoder)
        stack.callback(path.close)
        return path, path.note

    def _encoder(
        self,
        path: DevicePath | None,
        encode: EncodeOptions,
        info: VideoInfo,
        output: Path | WritingEnd,
    ) -> Encoder:
        target = output if isinstance(output, Path) else output.descriptor
        around = companions(self.source, info, self.options)
        if path is not None:
            return path.encoder(around, target)
        return Encoder(encode, around, target, self.check)

    def _flow(self, path: DevicePath | None, decoder: Decoder) -> FrameFlow | DeviceFlow:
        shift = pts_shift(decoder.info, self.options)
        if path is not None:
            return DeviceFlow(path, shift)
        return FrameFlow(
            decoder,
            self.upscaler,
            self.check,
            reuse_duplicates=self.options.reuse_duplicates,
            shift=shift,
        )

    def _pump(self, flow: FrameFlow | DeviceFlow, encoder: Encoder, info: VideoInfo) -> None:
        report = progress_reporter(self.on_progress, expected_frames(info, self.options))
        for upscaled in flow:
            if upscaled.frame is None:
                encoder.repeat(upscaled.pts, upscaled.duration)
            else:
                with flow.times.measure("write"):
                    encoder.put(upscaled.frame, upscaled.pts, upscaled.duration)
            report(len(flow.ledger))


def checker(cancelled: Callable[[], bool]) -> Callable[[], None]:
    """``cancelled`` as a function that raises Cancelled."""

    def check() -> None:
        if cancelled():
            raise Cancelled("The job was cancelled.")

    return check


def check_complete(source: Path, options: VideoOptions) -> int:
    """How many bytes of ``source`` are missing. Raises UnusableMedia for some if ``strict``."""
    missing = missing_bytes(source)
    if missing and options.strict:
        raise truncated(f"{missing} bytes are missing at its end")
    return missing


def progress_reporter(
    on_progress: OnProgress | None, total: int | None, done_before: int = 0
) -> Callable[[int], None]:
    """A function that is told the number of finished frames and tells ``on_progress``."""
    started = time.monotonic()

    def report(frames: int) -> None:
        if on_progress is None:
            return
        seconds = time.monotonic() - started
        fps = (frames - done_before) / seconds if seconds > 0 else 0.0
        left = None if total is None or not fps else max(total - frames, 0) / fps
        on_progress(Progress(frames, total, seconds, fps, left))

    return report


def decode_options(options: VideoOptions, after_pts: int | None = None) -> DecodeOptions:
    """What the decoder is asked for."""
    return DecodeOptions(
        limits=options.limits,
        start_seconds=options.start_seconds,
        end_seconds=options.end_seconds,
        strict=options.strict,
        formats=options.formats,
        after_pts=after_pts,
    )


def encode_options(
    info: VideoInfo, options: VideoOptions, container: ContainerName
) -> EncodeOptions:
    """What the encoder is asked for. Raises CodecUnavailable for a size that is not possible."""
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
        out_width=out_width,
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


def pts_shift(info: VideoInfo, options: VideoOptions) -> int:
    """What is subtracted from every pts: a cut starts at zero, a whole video where it did."""
    return info.start_pts if options.start_seconds is not None else 0


def companions(source: Path, info: VideoInfo, options: VideoOptions) -> Companions:
    """Where the other streams come from, cut like the picture."""
    start = info.start_pts * info.time_base if options.start_seconds is not None else None
    end = None
    if options.end_seconds is not None:
        end = info.start_seconds + Fraction(str(options.end_seconds))
    return Companions(source, info.video_index, options.limits, start, end, start)
