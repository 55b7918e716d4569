"""The process that encodes and writes a video: ``python -m server.media.encode_child FD``.

Takes upscaled frames out of the shared memory ``FD``, encodes them, copies the other streams of
the source beside them, and writes a container to a file or a pipe. A crash in an encoder library
costs one job.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from server.media.child import error_message
from server.media.codecs import MUXERS, find_codec
from server.media.encoding import (
    PictureEncoder,
    Timings,
    encoder_from_message,
    picture_from_message,
    try_encoder,
)
from server.media.errors import CodecUnavailable, DiskFull, EncodeError, MediaError, UnusableMedia
from server.media.joining import Joiner
from server.media.ledger import read as read_ledger
from server.media.limits import Limits
from server.media.nvidia_mux import RAW_FORMATS, PacketStream
from server.media.open import open_container
from server.media.passthrough import OUTPUT_ERRORS, SideStreams, Window
from server.media.rational import fraction
from server.media.sandbox import confine, isolate, limit
from server.media.timing import percentiles
from server.media.wire import Inbox, Message, Ring, send, slot_bytes

_STREAMING = "frag_keyframe+empty_moov+default_base_moof+delay_moov"
"""Without ``delay_moov`` B-frames shift the picture against the sound (measured: +0.12 s)."""

_FRAGMENT_MICROSECONDS = 200_000
"""Cut at key frames only, nothing would come before the second one."""

_PROCESSOR_FACTS = (Path("/proc/cpuinfo"), Path("/sys/devices/system"))
"""Encoders share their work out by what they read here."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PipeFile:
    """A pipe as the writable, unseekable file that PyAV wants."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        """Writes all of ``data``, however slowly the other end reads."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)


def main() -> None:
    """Runs one command; the exit status is 0 unless the process itself failed."""
    memory_fd = int(sys.argv[1])
    isolate()
    limit(memory_bytes=None, cpu_seconds=None, may_write_files=True)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    inbox = Inbox(0)
    av.logging.set_level(None)
    command = inbox.first()
    try:
        _confine_to(command)
        inbox.start()
        if command["type"] == "try":
            reason = try_encoder(command["encoder"], command["options"])
            send(answers, {"type": "tried", "reason": reason})
        elif command["type"] == "join":
            _join(command, answers)
        else:
            write = _write_packets if command["type"] == "packets" else _write
            write(command, inbox, answers, memory_fd)
    except (MediaError, EncodeError) as error:
        send(answers, error_message(error))
    except av.FFmpegError as error:
        send(answers, error_message(_mux_error(error, command)))
    except OSError as error:
        send(answers, error_message(_os_error(error)))
    # The outermost edge of the child.
    except Exception as error:
        text = f"The output could not be written ({type(error).__name__})."
        send(answers, error_message(EncodeError(text)))


def _confine_to(command: dict[str, Any]) -> None:
    """Leaves the source, the segments and the output in sight, unless a driver needs more."""
    if command["type"] != "packets" and find_codec(_encoder_of(command)).needs_gpu:
        return
    reads = [Path(command[name]) for name in ("source", "folder") if command.get(name)]
    writes = [Path(command[name]) for name in ("output_path",) if command.get(name)]
    for path in writes:
        path.touch()  # so that the rule is for this file and not for its directory
    confine([*reads, *_PROCESSOR_FACTS], writes)


def _encoder_of(command: dict[str, Any]) -> str:
    encoder = command["encoder"]
    return str(encoder if command["type"] == "try" else encoder["encoder"])


def _mux_error(error: av.FFmpegError, command: dict[str, Any]) -> MediaError | EncodeError:
    """What the muxer does not like is never our picture, so it came with the source."""
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
        return _os_error(error)
    if command.get("source") is None:
        return EncodeError(f"The output could not be written ({type(error).__name__}).")
    return UnusableMedia(
        "The sound or another stream of this video is too damaged to be copied; remove it first.",
        code="damaged_streams",
    )


def _os_error(error: OSError) -> EncodeError:
    if error.errno in _NO_SPACE:
        return DiskFull("There is no space left for the output; free some and try again.")
    return EncodeError(f"The output could not be written ({os.strerror(error.errno or 0)}).")


@dataclass
class _Inputs:
    command: dict[str, Any]
    inbox: Inbox
    answers: int
    ring: Ring


def _write(command: dict[str, Any], inbox: Inbox, answers: int, memory_fd: int) -> None:
    picture = command["picture"]
    size = slot_bytes(picture["frame_format"], picture["height"], picture["width"])
    inputs = _Inputs(command, inbox, answers, Ring(memory_fd, int(command["slots"]), size))
    with _open_source(command) as source, _open_output(command) as output:
        done = _fill(inputs, source, output)
    send(answers, done)


def _write_packets(command: dict[str, Any], inbox: Inbox, answers: int, memory_fd: int) -> None:
    """Packets that the parent encoded on a GPU; the first one says what the header needs."""
    message = inbox.take()
    if message["type"] != "packet":
        raise EncodeError("There is no frame to write.")
    picture, spec = picture_from_message(command["picture"]), command["encoder"]
    size = slot_bytes(picture.frame_format, picture.height, picture.width)
    ring = Ring(memory_fd, int(command["slots"]), size)

    def data_of(message: Message) -> bytes:
        data = bytes(ring.slot(int(message["slot"]))[: int(message["size"])])
        send(answers, {"type": "free", "slot": message["slot"]})
        return data

    first, clock = data_of(message), Fraction(spec["time_base"])
    with _open_source(command) as source, _open_output(command) as output:
        stream = PacketStream(output, first, RAW_FORMATS[spec["encoder"]], picture, clock)
        side, tally = _side_streams(command, source, output, stream.stream), _Tally()
        _write_header(output, spec["encoder"])
        send(answers, {"type": "ready", "dropped": side.dropped, "copied": side.copied})
        _mux([stream.packet(first, message)], side, output, tally)
        while (message := inbox.take())["type"] == "packet":
            _mux([stream.packet(data_of(message), message)], side, output, tally)
        side.pump(None)
        done = _done(stream.frames, tally, side, Timings())
    send(answers, done)


def _join(command: dict[str, Any], answers: int) -> None:
    folder = Path(command["folder"])
    ledger = read_ledger(folder)
    if ledger is None or not ledger.rows:
        raise EncodeError("There are no segments to join.")
    with _open_source(command) as source, _open_output(command) as output:
        joiner = Joiner(output, folder, ledger, picture_from_message(command["picture"]))
        side = _side_streams(command, source, output, joiner.stream)
        _write_header(output, command["encoder"]["encoder"])
        send(answers, {"type": "ready", "dropped": side.dropped, "copied": side.copied})
        tally = _Tally()
        for packet in joiner.packets():
            _mux([packet], side, output, tally)
        side.pump(None)
        done = _done(ledger.frames, tally, side, Timings())
    send(answers, done)


@contextmanager
def _open_source(command: dict[str, Any]) -> Iterator[InputContainer | None]:
    """The file of the other streams, or None for a segment, which has none."""
    if command["source"] is None:
        yield None
        return
    with open_container(Path(command["source"]), Limits(**command["limits"])) as source:
        yield source


def _open_output(command: dict[str, Any]) -> OutputContainer:
    muxer = MUXERS[command["container"]]
    options: dict[str, str] = {}
    streaming = command["output_fd"] is not None
    if muxer != "matroska":
        options["movflags"] = _STREAMING if streaming else "faststart"
        # Edit lists count in the movie's clock; FFmpeg's own of 1 ms would round a late start.
        clock = Fraction(command["encoder"]["time_base"]).denominator
        options["movie_timescale"] = str(clock if clock >= 1000 else clock * 1000)
    if streaming:
        if muxer != "matroska":
            options["frag_duration"] = str(_FRAGMENT_MICROSECONDS)
        options["flush_packets"] = "1"
        pipe = PipeFile(int(command["output_fd"]))
        return av.open(pipe, "w", format=muxer, container_options=options)
    return av.open(command["output_path"], "w", format=muxer, container_options=options)


def _fill(inputs: _Inputs, source: InputContainer | None, output: OutputContainer) -> Message:
    command, timings = inputs.command, Timings()
    picture = picture_from_message(command["picture"])
    spec = encoder_from_message(command["encoder"])
    encoder = PictureEncoder(output, spec, picture, timings)
    side = _side_streams(command, source, output, encoder.stream)
    _write_header(output, spec.encoder)
    send(inputs.answers, {"type": "ready", "dropped": side.dropped, "copied": side.copied})
    tally = _encode_all(inputs, encoder, side, output)
    return _done(encoder.frames, tally, side, timings)


def _done(frames: int, tally: _Tally, side: SideStreams, timings: Timings) -> Message:
    return {
        "type": "done",
        "frames": frames,
        "packets": len(tally.packet_pts),
        "packet_pts": tally.packet_pts if side.source is None else [],
        "side_packets": side.packets,
        "damaged": list(side.damaged.items()),
        "moved": list(side.moved.items()),
        "raised": [(index, str(seconds)) for index, seconds in side.raised.items()],
        "shift_seconds": str(max(-tally.lowest_seconds, 0)),
        "stages": {
            "convert": percentiles(timings.convert_ms),
            "encode": percentiles(timings.encode_ms),
        },
    }


def _side_streams(
    command: dict[str, Any],
    source: InputContainer | None,
    output: OutputContainer,
    video: VideoStream,
) -> SideStreams:
    index = command["source_video_index"]
    side = SideStreams(source, output, MUXERS[command["container"]], index, _window(command))
    if source is not None:
        tags = source.streams[index].metadata
        video.metadata.update({name: tags[name] for name in ("language", "title") if name in tags})
        side.declare()
    return side


def _write_header(output: OutputContainer, encoder: str) -> None:
    try:
        output.start_encoding()
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise
        raise CodecUnavailable(
            f"{encoder} cannot be used for this output here ({type(error).__name__}); "
            "choose another codec."
        ) from error


def _window(command: dict[str, Any]) -> Window:
    start, end, shift = (
        None if command[name] is None else Fraction(command[name])
        for name in ("window_start", "window_end", "shift")
    )
    return Window(start, end, shift or Fraction(0))


@dataclass
class _Tally:
    packet_pts: list[int] = field(default_factory=list)
    lowest_seconds: Fraction = Fraction(0)


def _encode_all(
    inputs: _Inputs, encoder: PictureEncoder, side: SideStreams, output: OutputContainer
) -> _Tally:
    """Encodes and writes what the parent sends, until it says that that was all."""
    tally = _Tally()
    while True:
        message = inputs.inbox.take()
        match message["type"]:
            case "frame":
                slot = int(message["slot"])
                view = inputs.ring.slot(slot)
                packets = encoder.encode(view, message["pts"], message["duration"])
                view.release()
                send(inputs.answers, {"type": "free", "slot": slot})
            case "repeat":
                packets = encoder.encode_again(message["pts"], message["duration"])
                send(inputs.answers, {"type": "repeated"})
            case _:
                break
        _mux(packets, side, output, tally)
    _mux(encoder.flush(), side, output, tally)
    side.pump(None)
    return tally


def _mux(
    packets: list[Packet[VideoStream]], side: SideStreams, output: OutputContainer, tally: _Tally
) -> None:
    for packet in packets:
        base = fraction(packet.time_base) or Fraction(1, 1000)
        if packet.dts is not None:
            side.pump(packet.dts * base)
        pts = packet.pts or 0
        tally.lowest_seconds = min(tally.lowest_seconds, pts * base)
        tally.packet_pts.append(pts)
        output.mux(packet)


if __name__ == "__main__":
    main()
