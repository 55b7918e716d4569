"""The process that demuxes user bytes for NVDEC: ``python -m server.media.nvidia_child FD``.

Headers are checked here, and only packets cross, through the shared memory ``FD``: the process
that owns the GPU never parses a container.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet

from server.media.child import errors_reported
from server.media.decoding import Job, Wanted, seek_to
from server.media.errors import UnusableMedia
from server.media.limits import Limits
from server.media.open import choose_video, open_container
from server.media.sandbox import confine, isolate, limit
from server.media.wire import Inbox, Message, Ring, send


def main() -> None:
    """Runs one job; the exit status is 0 unless the process itself failed."""
    memory_fd = int(sys.argv[1])
    isolate()
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    inbox = Inbox(0)
    av.logging.set_level(None)
    with errors_reported(answers, "read"):
        _run(inbox, answers, memory_fd)


def _run(inbox: Inbox, answers: int, memory_fd: int) -> None:
    command = inbox.first()
    limits, source = Limits(**command["limits"]), Path(command["source"])
    limit(
        memory_bytes=limits.decode_memory_bytes,
        cpu_seconds=limits.decode_cpu_seconds,
        may_write_files=False,
    )
    confine(reads=[source])
    inbox.start()
    with open_container(source, limits) as container:
        stream = choose_video(container, limits)
        job = Job(container, stream, limits, bool(command["strict"]))
        start = command["start_seconds"]
        origin = Fraction(container.start_time or 0, av.time_base)
        seek_to(job, Wanted(None if start is None else origin + Fraction(str(start)), None, None))
        extradata = stream.codec_context.extradata or b""
        head = {"type": "head", "codec": stream.codec_context.name}
        send(answers, head | {"extradata": base64.b64encode(extradata).decode()})
        ring = Ring(memory_fd, int(command["slots"]), int(command["slot_bytes"]))
        free = list(range(ring.slots))
        for packet in _packets(job):
            while not free:
                free.append(int(inbox.take()["free"]))
            send(answers, _stored(packet, ring, free.pop(0)))
    counters = job.counters
    send(
        answers,
        {
            "type": "end",
            "packets": counters.packets,
            "corrupt_packets": counters.corrupt_packets,
            "demux_error": counters.demux_error,
        },
    )


def _packets(job: Job) -> Iterator[Packet[Any]]:
    """Every packet of the video, counted and checked as the decode child does it."""
    packets = job.container.demux(job.stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            job.counters.demux_error = type(error).__name__
            return
        if packet is None or packet.size == 0:
            return
        if packet.has_sidedata("encryption_info"):
            raise UnusableMedia("The video is encrypted; decrypt it first.", code="encrypted")
        job.counters.packets += 1
        if packet.is_corrupt:
            job.counters.corrupt_packets += 1
            if job.strict:
                raise UnusableMedia(
                    "A part of the video is missing or damaged, and strict was asked for.",
                    code="corrupt",
                )
        yield packet


def _stored(packet: Packet[Any], ring: Ring, slot: int) -> Message:
    if packet.size > ring.slot_bytes:
        raise UnusableMedia(
            f"A packet of the video has {packet.size} bytes, more than a whole frame; use "
            "--codec libx264.",
            code="corrupt",
        )
    ring.slot(slot)[: packet.size] = bytes(packet)
    return {
        "type": "packet",
        "slot": slot,
        "size": packet.size,
        "pts": packet.pts,
        "dts": packet.dts,
        "duration": int(packet.duration or 0),
        "key": bool(packet.is_keyframe),
    }


if __name__ == "__main__":
    main()
