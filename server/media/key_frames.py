"""Where a video can be cut without decoding it: the key frames that nothing reaches across.

A frame that is cut off from its past must look exactly as it does in one go, so a key frame counts
only when no frame is shown before it that comes after it in the file (open GOP), none after it that
comes before it, and when its codec promises that everything after it stands alone. Runs in the
decode child; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from server.media.decoding import SEEKABLE, Job

_TELL_EVERY = 2000
_ALWAYS = frozenset({"vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "prores"})
"""Codecs whose key frames forget everything."""
_H264_IDR = frozenset({5})
_HEVC_RANDOM_ACCESS = frozenset(range(16, 22))
"""BLA, IDR and CRA; the pictures that lead a CRA are seen by their times."""


def scan(job: Job, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Reads all packets of the video stream.

    Returns:
        A message with ``packets`` (how many), ``keys`` (pts of the key frames where a cut is safe,
        in order), ``last_pts`` and ``problem`` (why the video must stay whole, or None).
    """
    container = job.container.format.name.split(",")[0]
    if container not in SEEKABLE:
        return _result([], [], f"{container} cannot be searched by time")
    pts: list[int] = []
    candidates: list[tuple[int, int]] = []
    try:
        for packet in _packets(job):
            if packet.pts is None or packet.is_corrupt:
                return _result(pts, [], "packets are damaged or have no time")
            if packet.is_keyframe and stands_alone(packet):
                candidates.append((len(pts), packet.pts))
            pts.append(packet.pts)
            if len(pts) % _TELL_EVERY == 0:
                tell({"type": "scanning"})
    except (av.FFmpegError, OSError, ValueError) as error:
        return _result(pts, [], f"reading stopped early ({type(error).__name__})")
    if len(set(pts)) != len(pts):
        return _result(pts, [], "frames share their times")
    return _result(pts, closed(pts, candidates), None)


def closed(pts: list[int], candidates: list[tuple[int, int]]) -> list[int]:
    """The candidates (index in ``pts``, their own pts) with all earlier frames before them.

    Args:
        pts: of every packet, in decoding order.
        candidates: key frames.
    """
    before, latest = [], float("-inf")
    for value in pts:
        before.append(latest)
        latest = max(latest, value)
    after, earliest = [0.0] * len(pts), float("inf")
    for index in range(len(pts) - 1, -1, -1):
        after[index] = earliest
        earliest = min(earliest, pts[index])
    return [own for index, own in candidates if before[index] < own < after[index]]


def stands_alone(packet: Packet[VideoStream]) -> bool:
    """Whether the codec promises that nothing after this key frame needs anything before it."""
    context = packet.stream.codec_context
    if context.name in _ALWAYS:
        return True
    extradata = context.extradata or b""
    if context.name == "h264" and len(extradata) > 4 and extradata[0] == 1:
        length = (extradata[4] & 3) + 1
        return any(unit[0] & 0x1F in _H264_IDR for unit in _units(bytes(packet), length))
    if context.name == "hevc" and len(extradata) > 21 and extradata[0] == 1:
        length = (extradata[21] & 3) + 1
        kinds = {(unit[0] >> 1) & 0x3F for unit in _units(bytes(packet), length)}
        return bool(kinds & _HEVC_RANDOM_ACCESS)
    return False


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """First byte of each NAL unit, each preceded by its length."""
    start = 0
    while start + length_bytes < len(data):
        size = int.from_bytes(data[start : start + length_bytes], "big")
        start += length_bytes
        if size:
            yield data[start : start + 1]
        start += size


def _packets(job: Job) -> Iterator[Packet[VideoStream]]:
    for packet in job.container.demux(job.stream):
        if packet.size:
            yield packet


def _result(pts: list[int], keys: list[int], problem: str | None) -> dict[str, Any]:
    last = max(pts, default=0)
    facts = {"packets": len(pts), "last_pts": last, "keys": keys, "problem": problem}
    return {"type": "scan", **facts}
