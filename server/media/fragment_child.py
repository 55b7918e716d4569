"""The process that turns finished video into fragments: ``… fragment_child FD``.

It opens files of our own making, segments of a job or its result, copies packets and never decodes.
Still it parses, so it is a child like the others: no network, one command after the other.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from server.beside import written_beside
from server.media.child import error_message
from server.media.errors import DiskFull, EncodeError
from server.media.fragments import codec_string, decode_order_samples, fragment_head
from server.media.rational import fraction
from server.media.sandbox import isolate, limit
from server.media.wire import Inbox, Message, send


def main() -> None:
    """Runs commands until the other side hangs up."""
    isolate()
    limit(memory_bytes=None, cpu_seconds=None, may_write_files=True)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    av.logging.set_level(None)
    inbox = Inbox(0)
    inbox.start()
    while True:
        send(answers, _answer(inbox.take()))


def _answer(command: Message) -> Message:
    run = {"segment": _segment, "result": _result}[command["type"]]
    try:
        return {"type": "done", **run(command)}
    except OSError as error:
        if error.errno in (28, 122):  # no space, no quota
            return error_message(DiskFull("There is no space left for the playback of this job."))
        return error_message(EncodeError("A finished part of this job cannot be read."))
    except Exception as error:  # the outermost edge of the child
        return error_message(EncodeError(f"Playback failed ({type(error).__name__})."))


@dataclass(frozen=True, slots=True)
class _Packet:
    data: bytes
    is_key: bool
    pts: int


def _segment(command: Message) -> dict[str, Any]:
    """One segment of a job, with the times of the ledger."""
    clock = Fraction(command["time_base"])
    with _opened(command["source"]) as container:
        stream = container.streams.video[0]
        facts = _init(stream, clock, command.get("init"))
        packets = [_Packet(bytes(p), p.is_keyframe, 0) for p in container.demux(stream) if p.size]
    pts = [_ticks(value, clock) for value in command["pts"]]
    placed = list(zip(command["order"], packets, strict=True))
    end = _ticks(command["end"], clock)
    _write(Path(command["output"]), command["number"], (pts, end), placed)
    return facts


def _result(command: Message) -> dict[str, Any]:
    """What is left of a finished video after its first ``skip`` frames, cut at key frames."""
    made: list[dict[str, Any]] = []
    number, folder = int(command["number"]), Path(command["folder"])
    with _opened(command["source"]) as container:
        stream = container.streams.video[0]
        clock = Fraction(command["time_base"] or str(fraction(stream.time_base)))
        facts = _init(stream, clock, command.get("init"))
        base, ticks = command["base"], round(command["seconds"] / clock)
        for group in _groups(_packets(container, stream, clock), command["skip"], ticks):
            places = sorted(packet.pts for packet in group.packets)
            if base is None:
                base = places[0]
            rank = {place: index for index, place in enumerate(places)}
            pts = [place - base for place in places]
            end = (group.end if group.end is not None else 2 * places[-1] - places[-2:][0]) - base
            placed = [(rank[packet.pts], packet) for packet in group.packets]
            output = folder / f"{number}.m4s"
            _write(output, number, (pts, end), placed)
            made.append({"frames": len(pts), "ticks": max(end, pts[-1] + 1) - pts[0]})
            number += 1
    return {**facts, "made": made, "time_base": str(clock)}


@dataclass(frozen=True, slots=True)
class _Group:
    packets: list[_Packet]
    end: int | None
    """pts of the key frame after it."""


def _packets(container: InputContainer, stream: VideoStream, clock: Fraction) -> Iterator[_Packet]:
    own = fraction(stream.time_base) or clock
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            yield _Packet(bytes(packet), packet.is_keyframe, round(packet.pts * own / clock))


def _groups(packets: Iterator[_Packet], skip: int, ticks: int) -> Iterator[_Group]:
    group: list[_Packet] = []
    for index, packet in enumerate(packets):
        if index < skip:
            continue
        if group and packet.is_key and packet.pts - group[0].pts >= ticks:
            yield _Group(group, packet.pts)
            group = []
        group.append(packet)
    if group:
        yield _Group(group, None)


def _ticks(value: int, clock: Fraction) -> int:
    """A time in units of ``clock`` as ticks of 1/denominator."""
    return value * clock.numerator


def _init(stream: VideoStream, clock: Fraction, output: str | None) -> dict[str, Any]:
    """Writes the head of the whole stream where it is asked for; what players need to know."""
    context = stream.codec_context
    facts = {
        "codecs": codec_string(context.name, context.extradata or b""),
        "width": context.width,
        "height": context.height,
    }
    if output is not None:
        buffer = io.BytesIO()
        options = {
            "movflags": "empty_moov+default_base_moof",
            "video_track_timescale": str(clock.denominator),
        }
        with av.open(buffer, "w", format="mp4", container_options=options) as head:
            copied = head.add_stream_from_template(stream, opaque=True)
            copied.time_base = clock
            head.start_encoding()
            data = buffer.getvalue()
        with written_beside(Path(output)) as partial:
            # Apple's players take HEVC only under the name that says where its parameters are.
            partial.write_bytes(_only_head(data).replace(b"hev1", b"hvc1"))
    return facts


def _only_head(data: bytes) -> bytes:
    """``ftyp`` and ``moov``."""
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        place += size
        if kind == b"moov":
            return data[:place]
    raise EncodeError("The head of the stream could not be written.")


def _write(
    output: Path,
    number: int,
    times: tuple[Sequence[int], int],
    placed: Sequence[tuple[int, _Packet]],
) -> None:
    pts, end = times
    packets = [(place, len(packet.data), packet.is_key) for place, packet in placed]
    samples = decode_order_samples(pts, end, packets)
    with written_beside(output) as partial, partial.open("wb") as file:
        file.write(fragment_head(number + 1, pts[0], samples))
        for _, packet in placed:
            file.write(packet.data)


def _opened(source: str) -> InputContainer:
    return av.open(source, "r", options={"protocol_whitelist": "file"})


if __name__ == "__main__":
    main()
