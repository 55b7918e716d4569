"""A video as plain PyAV reads it, knowing nothing of the product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av


@dataclass(frozen=True)
class Reading:
    """What a video holds."""

    seconds: list[Fraction]
    """Of every frame that the decoder emits."""
    sound: list[list[bytes]]
    """Payloads of the packets of each audio stream."""
    sound_seconds: list[list[Fraction]]
    """Of the same packets."""
    colour: tuple[int, ...]
    """Matrix, primaries, transfer, range."""
    aspect: Fraction | None
    turn: int
    """Degrees."""
    streams: int
    chapters: int
    title: str | None


def read_video(path: Path) -> Reading:
    """Reads ``path`` with plain PyAV."""
    with av.open(str(path), metadata_errors="replace") as source:
        video = next(each for each in source.streams.video if not is_cover(each))
        frames = list(_frames(source, video))
        first, context = frames[0], video.codec_context
        tags = (first.colorspace, context.color_primaries, context.color_trc, first.color_range)
        sound, sound_seconds = _sound(path)
        return Reading(
            seconds=[frame.pts * frame.time_base for frame in frames if frame.pts is not None],
            sound=sound,
            sound_seconds=sound_seconds,
            colour=tuple(int(tag or 0) for tag in tags),
            aspect=video.sample_aspect_ratio or None,
            turn=first.rotation,
            streams=len(source.streams),
            chapters=len(source.chapters()),
            title=source.metadata.get("title"),
        )


def _frames(source: Any, video: Any) -> Iterator[Any]:
    for packet in source.demux(video):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue  # the product counts these as damage


def _sound(path: Path) -> tuple[list[list[bytes]], list[list[Fraction]]]:
    payloads: dict[int, list[bytes]] = {}
    seconds: dict[int, list[Fraction]] = {}
    with av.open(str(path), metadata_errors="replace") as source:
        if source.streams.audio:
            for packet in source.demux(*source.streams.audio):
                if packet.size and packet.pts is not None:
                    payloads.setdefault(packet.stream_index, []).append(_without_adts(packet))
                    moment = packet.pts * packet.time_base
                    seconds.setdefault(packet.stream_index, []).append(moment)
    return list(payloads.values()), list(seconds.values())


def _without_adts(packet: Any) -> bytes:
    """AAC in a transport stream has a header on each packet that no other container has."""
    content = bytes(packet)
    if (
        content[0] == 0xFF
        and content[1] & 0xF6 == 0xF0
        and packet.stream.codec_context.name == "aac"
    ):
        return content[7 if content[1] & 1 else 9 :]
    return content


def is_cover(stream: Any) -> bool:
    """Whether a video stream is only a cover picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
