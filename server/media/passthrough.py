"""Everything of the source but its picture, copied packet by packet into the output.

Runs in the encode child. Payloads are never touched; what the output container cannot hold is
listed with a reason instead of vanishing.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream

from server.media.adts import AdtsSounds
from server.media.open import is_cover
from server.media.rational import fraction

if TYPE_CHECKING:
    from av.container.core import Chapter  # only the stubs have it

OUTPUT_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.EIO, errno.ENOMEM}
)
"""Errors of the output rather than of a packet."""
_MAX_STEP = 2**31 - 1
"""Ticks from one packet to the next that MP4 can write."""
_OWN_TAGS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id"}
    | {"software", "bps", "number_of_frames", "number_of_bytes"}
)
"""Tags that describe the old file rather than its content."""


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the source that is wanted, in seconds of its own clock."""

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)
    """Subtracted from every time stamp, so that a cut starts at zero."""


@dataclass
class SideStreams:
    """The other streams of the source, and where they go."""

    source: InputContainer | None
    """None: there are no others."""
    output: OutputContainer
    muxer: str
    video_index: int | None
    window: Window
    dropped: list[dict[str, Any]] = field(default_factory=list)
    copied: list[dict[str, Any]] = field(default_factory=list)
    packets: int = 0
    damaged: dict[int, int] = field(default_factory=dict)
    """Stream -> packets that no muxer takes."""
    moved: dict[int, int] = field(default_factory=dict)
    """Stream -> packets whose time went back and is now the next free one."""
    raised: dict[int, Fraction] = field(default_factory=dict)
    """Stream -> how far, in seconds, its first packets were moved up to zero."""
    _targets: dict[int, Stream] = field(default_factory=dict)
    _next_dts: dict[int, int] = field(default_factory=dict)
    _waiting: Packet[Stream] | None = None
    _packets: Iterator[Packet[Stream]] | None = None

    def declare(self) -> None:
        """Adds the streams, chapters and tags to the output. Before its header is written."""
        if self.source is None:
            return
        for stream in self.source.streams:
            if stream.index != self.video_index:
                self._declare_stream(stream)
        tags = _content_tags(self.source.metadata)
        self.output.metadata.update(tags)
        self._list_lost_tags(tags, {})
        self._declare_chapters(self.source.chapters())
        if self._targets:
            chosen = [self.source.streams[index] for index in self._targets]
            headed = self._adts_targets(chosen)
            sounds = AdtsSounds(headed, self._lose)
            self._packets = sounds.bare(iter(self.source.demux(*chosen)))
            for entry in self.copied:
                if entry.get("index") in headed:
                    entry["changed"] = "the ADTS header of every packet is left out"

    def _adts_targets(self, chosen: list[Stream]) -> dict[int, Stream]:
        return {
            stream.index: self._targets[stream.index]
            for stream in chosen
            if codec_name(stream) == "aac" and not stream.codec_context.extradata
        }

    def _declare_stream(self, stream: Stream) -> None:
        reason = self._why_not(stream)
        entry = {"index": stream.index, "type": stream.type, "codec": codec_name(stream)}
        if reason is not None:
            self.dropped.append(entry | {"reason": reason})
            return
        self.copied.append(entry)
        target = _add(self.output, stream)
        if stream.type != "attachment":
            self._targets[stream.index] = target
            self._list_lost_tags(_content_tags(stream.metadata), {"index": stream.index})

    def _why_not(self, stream: Stream) -> str | None:
        if stream.type == "video":
            return (
                "cover picture" if is_cover(stream) else "only the first video stream is upscaled"
            )
        if stream.type not in ("audio", "subtitle", "attachment"):
            return f"{stream.type} streams are not copied"
        if stream.type == "attachment" and self.muxer != "matroska":
            return f"{self.muxer} cannot hold attachments; use mkv"
        if stream.type != "attachment" and getattr(stream, "codec_context", None) is None:
            return "its codec is unknown"
        if _lacks_header(stream):
            return "its header is damaged"
        if not _fits(stream, self.muxer):
            return f"{self.muxer} cannot hold {codec_name(stream)}; use mkv"
        return None

    def _list_lost_tags(self, tags: dict[str, str], of: dict[str, Any]) -> None:
        kept = _kept_tags(tags, self.muxer, of_stream=bool(of))
        said = {name for name, value in tags.items() if value != "und"}  # a language not known
        lost = sorted(name for name in said if name.lower() not in kept)
        if lost:
            names = ", ".join(name[:40] for name in lost[:10])
            reason = f"{self.muxer} cannot hold {names}; use mkv"
            self.dropped.append({**of, "type": "tags", "count": len(lost), "reason": reason})

    def _declare_chapters(self, chapters: list[Chapter]) -> None:
        if not chapters:
            return
        if self.window.start is not None or self.window.end is not None:
            self.dropped.append(
                {"type": "chapters", "reason": "chapters of the whole do not fit a cut"}
            )
            return
        self.output.set_chapters(chapters)
        self.copied.append({"type": "chapters", "count": len(chapters)})

    def pump(self, until_seconds: Fraction | None) -> None:
        """Copies packets up to this moment of the output's clock; ``None`` means all the rest."""
        while (packet := self._next()) is not None:
            moment = _seconds(packet) - self.window.shift
            if until_seconds is not None and moment > until_seconds:
                self._waiting = packet
                return
            self._copy(packet)

    def _next(self) -> Packet[Stream] | None:
        if self._waiting is not None:
            packet, self._waiting = self._waiting, None
            return packet
        if self._packets is None:
            return None
        try:
            for packet in self._packets:
                if packet.size and (packet.dts is not None or packet.pts is not None):
                    return packet
        except av.FFmpegError:  # a damaged end; the decoder meets and reports it too
            self._packets = None
        return None

    def _copy(self, packet: Packet[Stream]) -> None:
        seconds = _seconds(packet)
        window = self.window
        if window.start is not None and seconds < window.start:
            return
        if window.end is not None and seconds >= window.end:
            return
        base = _base(packet)
        ticks = round(window.shift / base)
        packet.dts = (packet.pts if packet.dts is None else packet.dts or 0) - ticks  # type: ignore[operator]
        packet.pts = packet.dts if packet.pts is None else max(packet.pts - ticks, packet.dts)
        if self.muxer == "matroska":
            # Matroska has no edit lists: left alone, the muxer would move all streams, the
            # picture too, to make the encoder delay of the sound positive.
            self._raise_to_zero(packet, base)
        index = packet.stream_index
        if not self._make_grow(packet, index):
            self._lose(index)
            return
        packet.stream = self._targets[index]
        try:
            self.output.mux(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
                raise
            self._lose(index)
            return
        self.packets += 1

    def _raise_to_zero(self, packet: Packet[Stream], base: Fraction) -> None:
        pts = packet.pts or 0
        if pts < 0:
            index = packet.stream_index
            self.raised[index] = max(-pts * base, self.raised.get(index, Fraction(0)))
        packet.pts, packet.dts = max(pts, 0), max(packet.dts or 0, 0)

    def _lose(self, index: int) -> None:
        self.damaged[index] = self.damaged.get(index, 0) + 1

    def _make_grow(self, packet: Packet[Stream], index: int) -> bool:
        """Moves a packet whose time goes back, as damaged files have it, to the next free tick.

        Returns whether its times can be written at all.
        """
        base = _base(packet)
        clock = fraction(self._targets[index].time_base) or base
        scale = base / clock
        moment = _nearest((packet.dts or 0) * scale)
        if not 0 <= (packet.duration or 0) * scale < _MAX_STEP:
            packet.duration = 0
        least = self._next_dts.get(index)
        if least is not None and moment - least > _MAX_STEP:
            return False
        if least is not None and moment < least:
            packet.pts = max(_nearest((packet.pts or 0) * scale), least)
            packet.dts = moment = least
            packet.time_base = clock
            self.moved[index] = self.moved.get(index, 0) + 1
        # Matroska takes two packets at one moment; the others do not.
        self._next_dts[index] = moment + (self.muxer != "matroska")
        return True


def _nearest(value: Fraction) -> int:
    """The nearest integer, halves up: as FFmpeg rounds times that are not negative."""
    return math.floor(value + Fraction(1, 2))


def codec_name(stream: Stream) -> str:
    """The codec of a stream, as people call it."""
    # PyAV's stubs do not know that streams of an unknown codec have no context; the own ``name``
    # of such a subtitle stream then fails.
    context: CodecContext | None = getattr(stream, "codec_context", None)
    return getattr(stream if context is None else context, "name", None) or "unknown"


def _add(output: OutputContainer, stream: Stream) -> Stream:
    if isinstance(stream, AttachmentStream):
        name = stream.name or "attachment"
        return output.add_attachment(name, stream.mimetype or _DEFAULT_TYPE, stream.data)
    target = output.add_stream_from_template(stream, opaque=True)
    target.metadata.update(_content_tags(stream.metadata))
    target.disposition = Disposition(stream.disposition)
    if isinstance(target, AudioStream) and target.layout.name in _GUESSED_LAYOUTS:
        # AVI does not say which speaker is which, and MP4 cannot do without.
        target.codec_context.layout = _GUESSED_LAYOUTS[target.layout.name]
    return target


_DEFAULT_TYPE = "application/octet-stream"
_GUESSED_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo"}


def _lacks_header(stream: Stream) -> bool:
    """Whether AAC cannot be understood: only MPEG-TS and AVI repeat its header in every packet."""
    if codec_name(stream) != "aac" or stream.codec_context.extradata:
        return False
    return stream.container.format.name not in ("mpegts", "avi")


def _fits(stream: Stream, muxer: str) -> bool:
    """Whether the muxer writes a header with this stream: asked by really doing it."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            target = _add(trial, stream)
            trial.start_encoding()
            if _is_plain_sound(stream):
                # PCM and AAC that do not fit are only found out when the index is written.
                trial.mux(_silence(target))
    except (av.FFmpegError, ValueError, OSError):
        return False
    return True


def _is_plain_sound(stream: Stream) -> bool:
    """Whether any bytes do for a packet of this stream."""
    name = codec_name(stream)
    return name.startswith("pcm_") or (name == "aac" and bool(stream.codec_context.extradata))


def _silence(stream: Stream) -> Packet[Stream]:
    packet: Packet[Stream] = Packet(bytes(_SILENCE_BYTES))
    packet.stream = stream
    packet.time_base = fraction(stream.time_base) or Fraction(1, 1000)
    packet.pts = packet.dts = 0
    packet.duration = 1
    return packet


_SILENCE_BYTES = 8 * 4 * 3
"""Whole samples of one, two, three, four and eight channels of one to four bytes."""


def _kept_tags(tags: dict[str, str], muxer: str, *, of_stream: bool) -> set[str]:
    """The names, in lower case, that a reader finds: asked by really writing them."""
    if not tags or muxer == "matroska":
        return {name.lower() for name in tags}
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as trial:
        stream = trial.add_stream("mjpeg", rate=1)
        stream.pix_fmt = "yuvj420p"
        (stream if of_stream else trial).metadata.update(tags)
        trial.start_encoding()
        trial.mux(_silence(stream))  # a stream without a packet is not found again
    file.seek(0)
    with av.open(file, format="mov") as written:
        found = written.streams[0].metadata if of_stream else written.metadata
        # The title of a track comes back under its other name.
        return {"title" if name == "name" else name.lower() for name in found}


def _content_tags(metadata: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in metadata.items()
        if name.lower().partition("-")[0] not in _OWN_TAGS and not name.startswith("_STATISTICS")
    }


def _seconds(packet: Packet[Stream]) -> Fraction:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return (stamp or 0) * _base(packet)


def _base(packet: Packet[Stream]) -> Fraction:
    return fraction(packet.time_base) or Fraction(1, 1000)
