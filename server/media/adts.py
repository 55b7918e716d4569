"""AAC as MPEG-TS has it, a header in every packet, made into the AAC of other containers.

FFmpeg's muxers do this themselves only where they can go back to their header: measured with PyAV
18.1, a fragmented MP4 or a Matroska written to a pipe fails at the first such packet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import av
from av import BitStreamFilterContext
from av.packet import Packet
from av.stream import Stream

_LOOK_AHEAD_PACKETS = 1000
"""Of all sounds together; a sound that begins later is not waited for."""


@dataclass
class AdtsSounds:
    """The sounds whose packets may have headers of their own, and where they go."""

    targets: Mapping[int, Stream]
    """Stream of the source -> stream of the output."""
    lose: Callable[[int], None]
    """Told the stream of each packet whose header is damaged."""
    _filters: dict[int, BitStreamFilterContext | None] = field(default_factory=dict)
    """None: this sound has no such headers."""

    def bare(self, packets: Iterator[Packet[Stream]]) -> Iterator[Packet[Stream]]:
        """The packets without these headers; others as they are.

        Before it returns, the output's streams are told what the headers said, which is why it
        must be called before the output's own header is written.
        """
        stripped = self._strip(packets)
        if not self.targets:
            return stripped
        ahead: list[Packet[Stream]] = []
        for packet in stripped:
            ahead.append(packet)
            if len(self._filters) == len(self.targets) or len(ahead) == _LOOK_AHEAD_PACKETS:
                break
        return chain(ahead, stripped)

    def _strip(self, packets: Iterator[Packet[Stream]]) -> Iterator[Packet[Stream]]:
        for packet in packets:
            index = packet.stream_index
            if index not in self.targets or not packet.size:
                yield packet
                continue
            if index not in self._filters:
                self._filters[index] = _filter_for(packet)
            remover = self._filters[index]
            if remover is None:
                yield packet
                continue
            stream, time_base = packet.stream, packet.time_base
            try:
                bare = remover.filter(packet)
            except av.FFmpegError:
                self.lose(index)
                continue
            for each in bare:
                each.stream, each.time_base = stream, time_base
                yield self._without_news(each) if each.has_sidedata("new_extradata") else each

    def _without_news(self, packet: Packet[Stream]) -> Packet[Stream]:
        """The packet without what it says about its stream, which the output is told instead.

        Matroska's muxer would write it over the header that follows its own.
        """
        context = self.targets[packet.stream_index].codec_context
        if not context.extradata:
            context.extradata = bytes(packet.get_sidedata("new_extradata"))
        plain: Packet[Stream] = Packet(bytes(packet))
        plain.stream, plain.time_base = packet.stream, packet.time_base
        plain.pts, plain.dts, plain.duration = packet.pts, packet.dts, packet.duration
        plain.is_keyframe = packet.is_keyframe
        return plain


def _filter_for(packet: Packet[Stream]) -> BitStreamFilterContext | None:
    head = bytes(memoryview(packet)[:2])
    if len(head) < 2 or head[0] != 0xFF or head[1] & 0xF0 != 0xF0:
        return None
    return BitStreamFilterContext("aac_adtstoasc", packet.stream)
