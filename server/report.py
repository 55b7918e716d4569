"""The manifest of a session, put together from what each stage counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from engine.backends.base import BackendInfo
from server.manifest import Manifest, pts_sha256
from server.media.codecs import find_codec
from server.media.decode import DecodeSummary
from server.media.encode import EncodeOptions, EncodeSummary
from server.media.errors import EncodeError, UnusableMedia
from server.media.probe import VideoInfo
from server.media.timing import Stages

_IN_SEGMENTS = {"decode": "host", "encode": "host", "reason": "segments go through the host"}


@dataclass(frozen=True)
class Facts:
    """Everything that is known when a session ends."""

    info: VideoInfo
    encode: EncodeOptions
    decoded: DecodeSummary
    encoded: EncodeSummary
    backend: BackendInfo
    ledger: list[int]
    """Every pts as written, in ``info.time_base`` units."""
    frames_reused: int
    frames_promised: int
    """What the container claims for exactly this part; 0: nothing that could be checked."""
    missing_bytes: int
    strict: bool
    copied: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    stages: dict[str, dict[str, float]]
    seconds: float
    earlier: int = 0
    """Frames that were finished before ``seconds`` began."""
    frame_memory: dict[str, str] = field(default_factory=dict)
    """Where the frames were, for the manifest."""


def truncated(what: str) -> UnusableMedia:
    """The error for input that is cut short although ``strict`` was asked for."""
    return UnusableMedia(
        f"The video is cut short ({what}), and strict was asked for.", code="truncated"
    )


def build_manifest(facts: Facts) -> Manifest:
    """The record of a finished video.

    Raises:
        EncodeError: frames were lost on the way.
        UnusableMedia: frames that the container promised are missing, and ``strict``.
    """
    info, decoded, encoded = facts.info, facts.decoded, facts.encoded
    _check_counts(facts)
    short = _frames_short(facts)
    if short and facts.strict:
        raise truncated(f"{short} of {facts.frames_promised} frames are missing")
    first, last = facts.ledger[0] * info.time_base, facts.ledger[-1] * info.time_base
    frames = len(facts.ledger)
    return Manifest(
        frames_in=decoded.frames,
        frames_out=frames,
        frames_encoded=encoded.frames,
        frames_reused=facts.frames_reused,
        frames_skipped=decoded.skipped,
        corrupt_frames=decoded.corrupt,
        decode_errors=decoded.decode_errors,
        pts_sha256=pts_sha256(facts.ledger, info.time_base),
        time_base=str(info.time_base),
        first_pts_seconds=str(first),
        last_pts_seconds=str(last),
        input=_input_entry(info),
        output=_output_entry(facts.encode, encoded),
        input_truncated=bool(facts.missing_bytes or short or decoded.demux_error),
        copied=facts.copied,
        dropped=facts.dropped,
        backend=asdict(facts.backend),
        stages=_encoder_stages(encoded) | facts.stages,
        seconds=round(facts.seconds, 3),
        fps=round((frames - facts.earlier) / facts.seconds, 3) if facts.seconds > 0 else 0.0,
        warnings=_warnings(facts, short),
        frame_memory=facts.frame_memory or _IN_SEGMENTS,
    )


def _encoder_stages(encoded: EncodeSummary) -> Stages:
    """Without those that had no frame: who joins segments encodes nothing."""
    return {name: dict(times) for name, times in encoded.stages.items() if times.get("frames")}


def _check_counts(facts: Facts) -> None:
    """Frames out == frames the decoder emitted, all the way to the packets."""
    counts = {
        "decoded": facts.decoded.frames,
        "upscaled": len(facts.ledger),
        "encoded": facts.encoded.frames,
        "written": facts.encoded.packets,
    }
    if len(set(counts.values())) != 1:
        text = ", ".join(f"{number} {stage}" for stage, number in counts.items())
        raise EncodeError(f"Frames were lost ({text}); this is a bug, please report it.")


def _frames_short(facts: Facts) -> int:
    """Frames that the container promised and does not have. Only MP4 counts its own packets."""
    decoded = facts.decoded
    if facts.info.container != "mov" or decoded.stopped_early or decoded.skipped:
        return 0
    return max(facts.frames_promised - decoded.packets, 0)


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


def _output_entry(encode: EncodeOptions, encoded: EncodeSummary) -> dict[str, object]:
    return {
        "container": encode.container,
        "codec": find_codec(encode.codec).encoder,
        "width": encode.out_width,
        "height": encode.out_height,
        "colour": asdict(encode.colour),
        "clock": _clock_note(encode, encoded),
    }


def _clock_note(encode: EncodeOptions, encoded: EncodeSummary) -> str:
    if encode.container != "mkv":
        return "every pts is exact"
    note = "every pts is the nearest millisecond, the clock of Matroska"
    if encoded.shift_seconds > 0:
        note += f"; all streams begin {float(encoded.shift_seconds):.3f} s later, to be positive"
    return note


def _warnings(facts: Facts, short: int) -> list[str]:
    info, decoded, missing = facts.info, facts.decoded, facts.missing_bytes
    found = [
        (missing, f"the input is cut short: {missing} bytes are missing"),
        (short, f"{short} of {facts.frames_promised} promised frames are missing"),
        (decoded.demux_error, f"reading stopped early ({decoded.demux_error})"),
        (decoded.decode_errors, f"{decoded.decode_errors} packets could not be decoded"),
        (decoded.corrupt_packets, f"{decoded.corrupt_packets} packets are damaged"),
        (decoded.corrupt, f"{decoded.corrupt} frames are damaged"),
        (decoded.interlaced, f"{decoded.interlaced} frames are interlaced; lines were kept"),
        (decoded.pts_repaired, f"{decoded.pts_repaired} time stamps were missing or went back"),
        (decoded.colour_changed, f"{decoded.colour_changed} frames have another colour tag"),
        (info.bit_depth > 8, f"{info.bit_depth}-bit samples were reduced to 8 bits"),
    ]
    found += [
        (count, f"{count} packets of stream {index} are too damaged to be copied")
        for index, count in facts.encoded.damaged.items()
    ]
    found += [
        (count, f"the times of {count} packets of stream {index} went back and were moved on")
        for index, count in facts.encoded.moved.items()
    ]
    found += [
        (
            seconds > 0,
            f"the first packets of stream {index} begin up to {float(seconds):.3f} s later, at 0: "
            "Matroska holds no time before it",
        )
        for index, seconds in facts.encoded.raised.items()
    ]
    return [text for condition, text in found if condition]
