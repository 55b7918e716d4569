"""Finished segments into one file, with the time stamps of the ledger. Runs in the encode child."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from server.media.encoding import PictureSpec
from server.media.errors import EncodeError
from server.media.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Stamp:
    """The times of one packet, in the ledger's time base."""

    pts: int
    dts: int
    duration: int


def stamps(ledger: Ledger) -> list[Stamp]:
    """Times for every packet of every segment, in decoding order.

    A dts is the pts of the frame that is shown ``delay`` places earlier in the sequence, where
    ``delay`` is the least that keeps every dts at or before its pts.
    """
    pts = [value for row in ledger.rows for value in row.pts]
    durations = [value for row in ledger.rows for value in row.durations]
    order: list[int] = []
    for row in ledger.rows:
        first = len(order)
        order += [first + rank for rank in row.order]
    delay = max((index - rank for index, rank in enumerate(order)), default=0)
    step = pts[1] - pts[0] if len(pts) > 1 else 1
    found = []
    for index, rank in enumerate(order):
        place = index - delay
        dts = pts[place] if place >= 0 else pts[0] + place * step
        found.append(Stamp(pts[rank], dts, durations[rank]))
    return found


class Joiner:
    """The video stream of the final file, fed from segments."""

    def __init__(
        self, output: OutputContainer, folder: Path, ledger: Ledger, picture: PictureSpec
    ) -> None:
        """Adds the stream, with everything that a segment's header cannot say."""
        self._folder = folder
        self._ledger = ledger
        self._rows = [row for row in ledger.rows if row.pts]
        self._time_base = Fraction(ledger.header.time_base)
        with _open_segment(folder / self._rows[0].file) as first:
            template = first.streams.video[0]
            self._extradata = template.codec_context.extradata
            self.stream: VideoStream = output.add_stream_from_template(template, opaque=True)
        self.stream.time_base = self._time_base
        picture.describe_stream(self.stream)

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Every packet with its final times, ready to be muxed.

        Raises:
            EncodeError: a segment is not what the ledger says.
        """
        times = iter(stamps(self._ledger))
        for row in self._rows:
            count = 0
            with _open_segment(self._folder / row.file) as segment:
                stream = segment.streams.video[0]
                if stream.codec_context.extradata != self._extradata:
                    raise EncodeError("A segment was made by another encoder; start the job anew.")
                for packet in segment.demux(stream):
                    if packet.size:
                        count += 1
                        yield self._stamped(packet, next(times))
            _check_count(count, row.pts)

    def _stamped(self, packet: Packet[VideoStream], stamp: Stamp) -> Packet[VideoStream]:
        packet.stream = self.stream
        packet.time_base = self._time_base
        packet.pts, packet.dts, packet.duration = stamp.pts, stamp.dts, stamp.duration
        return packet


def _check_count(count: int, pts: Sequence[int]) -> None:
    if count != len(pts):
        raise EncodeError(f"A segment holds {count} frames instead of {len(pts)}.")


def _open_segment(path: Path) -> av.container.InputContainer:
    return av.open(str(path), "r", format="matroska", options={"protocol_whitelist": "file"})
