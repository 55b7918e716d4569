"""Packets that another process encoded, as the video stream of an output. In the encode child.

The bare stream of an NVENC encoder carries its own headers in front of every key frame, so that
the first packet says everything that a container's header needs.
"""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from server.media.encoding import PictureSpec
from server.media.errors import EncodeError

RAW_FORMATS = {"h264_nvenc": "h264", "hevc_nvenc": "hevc"}
"""Encoders that are offered from device memory -> FFmpeg's name of their bare stream."""


class PacketStream:
    """The video stream of one output container, fed with packets.

    Args:
        output: where it is added.
        first: the first packet, in byte-stream form (start codes).
        raw_format: ``h264`` or ``hevc``.
        picture: what a bare stream cannot say.
        time_base: the clock of the packets.

    Raises:
        EncodeError: the packet does not begin such a stream.
    """

    def __init__(
        self,
        output: OutputContainer,
        first: bytes,
        raw_format: str,
        picture: PictureSpec,
        time_base: Fraction,
    ) -> None:
        self._time_base = time_base
        self.frames = 0
        try:
            with av.open(BytesIO(first), "r", format=raw_format) as bare:
                template = bare.streams.video[0]
                self.stream: VideoStream = output.add_stream_from_template(template, opaque=True)
        except (av.FFmpegError, ValueError, IndexError) as error:
            raise EncodeError(
                f"The encoder's first packet begins no {raw_format} stream "
                f"({type(error).__name__}); use --codec libx264."
            ) from error
        self.stream.time_base = time_base
        picture.describe_stream(self.stream)

    def packet(self, data: bytes, message: dict[str, Any]) -> Packet[VideoStream]:
        """A packet with the times that came with it."""
        packet: Packet[Any] = Packet(data)
        packet.stream, packet.time_base = self.stream, self._time_base
        packet.pts, packet.dts = message["pts"], message["dts"]
        packet.duration, packet.is_keyframe = message["duration"], message["key"]
        self.frames += 1
        return packet
