"""Opening an untrusted file with FFmpeg so that it can only ever be what its magic says.

Measured on PyAV 18.1 and 19.0: an explicit demuxer plus ``format_whitelist`` stops playlists and
scripts that reach other files or the network; ``max_pixels`` and ``codec_whitelist`` given to
``av.open`` never reach a decoder, only those in the codec context's own options do. Runs in media
children only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

# PyAV loads these when it meets a stream of text, and a confined process can load nothing.
import av.subtitles.codeccontext
import av.subtitles.stream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from server.media.errors import MediaError, OverLimit, UnsupportedMedia, UnusableMedia
from server.media.limits import Limits
from server.media.rational import fraction
from server.media.sniff import sniff_file

VIDEO_DECODERS = frozenset(
    {
        "h264",
        "hevc",
        "av1",
        "libdav1d",
        "vp8",
        "vp9",
        "libvpx",
        "libvpx-vp9",
        "mpeg4",
        "mpeg2video",
        "mjpeg",
        "prores",
        "gif",
    }
)
_OTHER_DECODERS = (
    "aac,mp3,mp3float,mp2,mp2float,opus,libopus,vorbis,ac3,eac3,flac,alac,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_u8,ass,ssa,srt,subrip,webvtt,mov_text,dvdsub,pgssub"
)
_READ_SECONDS = 30.0
_LENIENT_TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""PyAV 18 fails on tags that are not UTF-8 unless told otherwise; 19 always replaces."""
_MAX_PROBE_BYTES = 5_000_000


def open_container(path: Path, limits: Limits) -> InputContainer:
    """Opens ``path``, which must be a real file, with the demuxer that its magic names.

    Raises:
        UnsupportedMedia: not a video container that is supported.
        UnusableMedia: it cannot be parsed.
        OverLimit: too many streams.
    """
    sniffed = sniff_file(path)
    if sniffed.kind != "video":
        raise UnsupportedMedia(
            f"This is a picture ({sniffed.name.upper()}), not a video; send a video.",
            code="not_a_video",
        )
    try:
        container: InputContainer = av.open(
            str(path),
            mode="r",
            format=sniffed.name,
            **_LENIENT_TAGS,
            timeout=(limits.open_seconds, _READ_SECONDS),
            options={
                "protocol_whitelist": "file",
                "format_whitelist": sniffed.name,
                "codec_whitelist": ",".join(sorted(VIDEO_DECODERS)) + "," + _OTHER_DECODERS,
                "max_streams": str(limits.max_streams + 1),
                "probesize": str(_MAX_PROBE_BYTES),
            },
        )
    except av.EOFError as error:
        raise UnusableMedia(
            "The video has no frames; it is empty or cut short.", code="no_frames"
        ) from error
    except MemoryError as error:  # what FFmpeg says about too many streams, too
        raise _too_many_streams(limits) from error
    # Foreign exceptions (UnicodeDecodeError, MemoryError, OSError...) leak out of the parser on
    # damaged input, so that every one of them means the same thing here.
    except Exception as error:
        raise UnusableMedia(
            f"The video cannot be opened ({type(error).__name__}); it is damaged or incomplete.",
            code="unreadable",
        ) from error
    if len(container.streams) > limits.max_streams:  # Matroska's demuxer leaves the rest out
        container.close()
        raise _too_many_streams(limits)
    return container


def _too_many_streams(limits: Limits) -> OverLimit:
    return OverLimit(
        f"The video has more than {limits.max_streams} streams, or needs more memory to open "
        "than is allowed.",
        code="too_many_streams",
        limit=limits.max_streams,
    )


def is_cover(stream: Stream) -> bool:
    """Whether a video stream is only a cover picture."""
    return bool(stream.disposition & Disposition.attached_pic)


def choose_video(container: InputContainer, limits: Limits) -> VideoStream:
    """The first video stream that is not a cover picture, with its decoder guarded.

    Raises:
        UnusableMedia: there is none.
        UnsupportedMedia: its codec is not supported.
        OverLimit: its header claims too much.
    """
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        raise UnusableMedia("There is no video stream in this file.", code="no_video")
    stream = streams[0]
    # PyAV's stubs call it never None; a codec that this FFmpeg lacks has no context.
    context = stream.codec_context
    if context is None or context.name not in VIDEO_DECODERS:
        name = "unknown" if context is None else context.name
        raise UnsupportedMedia(
            f"The video codec ({name}) is not supported; use H.264, HEVC, AV1, VP8, VP9, MPEG-4, "
            "MPEG-2, MJPEG or ProRes.",
            code="unsupported_codec",
        )
    check_size(context.width, context.height, limits)
    _check_promises(container, stream, limits)
    context.options = {
        "max_pixels": str(_padded_pixels(limits)),
        "codec_whitelist": ",".join(sorted(VIDEO_DECODERS)),
    }
    context.thread_count = 2
    return stream


def _padded_pixels(limits: Limits) -> int:
    """The limit with FFmpeg's padding, which it counts too; ``check_size`` knows the exact one."""
    # Measured: a 16x16 frame counts as 53760 pixels, 256x256 as 89600, 1280x720 as itself.
    return limits.max_frame_pixels + 128 * limits.max_frame_side + 65536


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raises OverLimit for a frame size that is not allowed."""
    if width * height > limits.max_frame_pixels:
        raise OverLimit(
            f"The frames are {width}x{height}, which is more than "
            f"{limits.max_frame_pixels} pixels.",
            code="too_many_pixels",
            limit=limits.max_frame_pixels,
            actual=width * height,
        )
    if max(width, height) > limits.max_frame_side:
        raise OverLimit(
            f"The frames are {width}x{height}; a side may have at most "
            f"{limits.max_frame_side} pixels.",
            code="frame_too_large",
            limit=limits.max_frame_side,
            actual=max(width, height),
        )


def _check_promises(container: InputContainer, stream: VideoStream, limits: Limits) -> None:
    if limits.max_frames is not None and stream.frames > limits.max_frames:
        raise too_many_frames(limits.max_frames, stream.frames)
    duration = duration_seconds(container, stream)
    if limits.max_duration_seconds is not None and (duration or 0) > limits.max_duration_seconds:
        raise OverLimit(
            f"The video lasts {duration:.0f} s; at most {limits.max_duration_seconds:.0f} s are "
            "allowed here.",
            code="too_long",
            limit=int(limits.max_duration_seconds),
            actual=int(duration or 0),
        )
    if limits.max_average_fps is not None and stream.frames > 1 and duration:
        average = stream.frames / duration
        if average > limits.max_average_fps:
            raise OverLimit(
                f"The video has {average:.0f} frames a second; at most "
                f"{limits.max_average_fps:.0f} are allowed.",
                code="too_many_fps",
                limit=int(limits.max_average_fps),
                actual=int(average),
            )


def too_many_frames(limit: int, actual: int | None = None) -> MediaError:
    """The error for a video with more frames than ``limit``."""
    return OverLimit(
        f"The video has more than {limit} frames, which is the limit here.",
        code="too_many_frames",
        limit=limit,
        actual=actual,
    )


def duration_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """What the container says about the length of its video, if anything."""
    base = fraction(stream.time_base)
    if stream.duration is not None and base is not None:
        return float(stream.duration * base)
    if container.duration is not None:
        return container.duration / av.time_base
    return None
