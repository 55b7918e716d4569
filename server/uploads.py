"""Spools a request's body to disk: raw or multipart, capped, timed, never parsed as media.

The kind (picture or video) comes from the first bytes, never from a name. The file that a caller
gets is complete; a body that fails leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from server.content_digest import ContentDigest
from server.errors import ApiError
from server.file_names import sent_name
from server.limits import check_disk
from server.media.errors import UnsupportedMedia
from server.media.sniff import HEAD_BYTES, Sniffed, sniff
from server.multipart import FilePart
from server.settings import Limits
from server.whole_numbers import whole_number

_WRITE_BYTES = 1 << 20
_INLINE_BYTES = 64 * 1024
"""Up to this size a body is written at once: a turn of a thread costs more than a small write."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete body on disk."""

    path: Path
    media: Sniffed
    size: int
    sha256: str
    name: str | None = None
    """What the sender calls it, cleaned; its path has nothing of it."""


async def receive_upload(
    request: Request, path: Path, limits: Limits, max_video_bytes: int
) -> Upload:
    """Writes the body (or its multipart part ``file``) to ``path``.

    Raises:
        ApiError: 400 empty, broken multipart or not of its ``Content-Digest``, 408 too slow, 413
            over the cap (before it is read where a length was sent), 415 not media, 507 no room.
            Nothing is left at ``path``.
        ClientDisconnect: the caller went away.
    """
    declared = _declared_length(request)
    content_type = request.headers.get("content-type", "")
    longest = max(max_video_bytes, limits.max_picture_bytes)
    if content_type.startswith("image/"):
        longest = limits.max_picture_bytes
    if declared is not None and declared > longest + _envelope_bytes(content_type):
        raise _too_large(longest, declared)
    check_disk(path.parent, declared or 0, limits)
    try:
        return await _spool(request, path, limits, max_video_bytes)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ApiError("disk_full", "the disk is full; try again later") from None
        raise


def least_body_bytes(request: Request) -> int:
    """How large the media in a body is at least, as far as its headers tell."""
    envelope = _envelope_bytes(request.headers.get("content-type", ""))
    return max(1, (_declared_length(request) or 0) - envelope)


async def _spool(request: Request, path: Path, limits: Limits, max_video_bytes: int) -> Upload:
    spool = _Spool(path, limits.max_picture_bytes, max_video_bytes)
    async for chunk in _file_bytes(request, limits, spool):
        spool.add(chunk)
        if len(spool.pending) >= _WRITE_BYTES:
            await asyncio.to_thread(spool.flush)
    media = spool.finish()
    if spool.size <= _INLINE_BYTES:
        spool.flush()
    else:
        await asyncio.to_thread(spool.flush)
    return Upload(path, media, spool.size, spool.digest.hexdigest(), spool.name)


class _Spool:
    """Bytes on their way to disk, their kind and their cap."""

    def __init__(self, path: Path, max_picture_bytes: int, max_video_bytes: int) -> None:
        self._path = path
        self.pending = bytearray()
        self.size = 0
        self.digest = hashlib.sha256()
        self.name: str | None = None
        self._head = b""
        self._media: Sniffed | None = None
        self._caps = {"picture": max_picture_bytes, "video": max_video_bytes}

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.pending += chunk
        if self._media is None:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
            if len(self._head) >= HEAD_BYTES:
                self._media = _sniff(self._head)
        cap = self._caps[self._media.kind] if self._media else max(self._caps.values())
        if self.size > cap:
            raise _too_large(cap, self.size)

    def flush(self) -> None:
        with self._path.open("ab") as file:
            file.write(self.pending)
        self.digest.update(self.pending)
        self.pending.clear()

    def finish(self) -> Sniffed:
        if self.size == 0:
            raise ApiError(
                "bad_request", "the body is empty; send a picture or a video, or a part named file"
            )
        media = self._media or _sniff(self._head)
        if self.size > self._caps[media.kind]:
            raise _too_large(self._caps[media.kind], self.size)
        return media


def _sniff(head: bytes) -> Sniffed:
    try:
        return sniff(head)
    except UnsupportedMedia as error:
        raise ApiError("unsupported_media", error.message) from None


async def _file_bytes(request: Request, limits: Limits, spool: _Spool) -> AsyncIterator[bytes]:
    """The bytes of the media: the body itself, or the part ``file`` of a multipart one.

    ``spool`` is told its name.
    """
    content_type = request.headers.get("content-type", "")
    digest = ContentDigest(request.headers.get("content-digest"))
    body = digest.checked(_timed_body(request, limits))
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        disposition = request.headers.get("content-disposition")
        if disposition is not None:
            spool.name = sent_name(disposition.encode("latin-1"))
        async for chunk in body:
            yield chunk
        return
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 256:
        raise ApiError("bad_request", "the multipart boundary is missing or longer than 256 bytes")
    part = FilePart(boundary)
    try:
        async for chunk in body:
            data = part.feed(chunk)
            if data:
                yield data
        part.finish()
        spool.name = part.file_name
    except MultipartParseError:
        raise ApiError("bad_request", "the multipart body is broken") from None


async def _timed_body(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body's chunks, each within its time. Raises ApiError 408, ClientDisconnect."""
    started = time.monotonic()
    received = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(limits.body_idle_seconds):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_slow("no byte came", limits.body_idle_seconds) from None
        received += len(chunk)
        # Nobody is judged in the first idle time: connections start slowly.
        elapsed = time.monotonic() - started - limits.body_idle_seconds
        if elapsed > 0 and received < elapsed * limits.body_bytes_per_second:
            raise _too_slow("fewer bytes a second came", limits.body_bytes_per_second)
        if chunk:
            yield chunk


def _declared_length(request: Request) -> int | None:
    return whole_number(request.headers.get("content-length"))


def _envelope_bytes(content_type: str) -> int:
    """How much longer than its file a multipart body may be."""
    return 64 * 1024 if content_type.startswith("multipart/") else 0


def _too_large(limit: int, actual: int) -> ApiError:
    message = f"the body is larger than {limit} bytes"
    # The rest of the body is not read: the connection cannot be used again.
    return ApiError(
        "too_large", message, limit=limit, actual=actual, headers={"Connection": "close"}
    )


def _too_slow(what: str, limit: float) -> ApiError:
    message = f"the body came too slowly: {what}"
    return ApiError("too_slow", message, limit=limit, headers={"Connection": "close"})
