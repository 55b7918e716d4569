"""Requests that no client would send, byte by byte."""

from __future__ import annotations

import socket
from contextlib import suppress
from urllib.parse import urlsplit

_HEAD = b"POST /upscale HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"


def _sized(headers: bytes, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return _HEAD + headers + b"Content-Length: %d\r\n\r\n" % size + body


def _part(name: bytes, content: bytes, extra: bytes = b"") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
        name,
        extra,
        content,
    )


def requests(png: bytes) -> dict[str, bytes]:
    """Name -> request; ``%b`` in its head is the host."""
    chunked = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    dribble = b"".join(b"1\r\n%b\r\n" % png[i : i + 1] for i in range(len(png))) + b"0\r\n\r\n"
    file = _part(b"file", png, b'; filename="a.png"')
    return {
        "empty body": _sized(b"", b""),
        "fewer bytes than announced": _sized(b"", png, len(png) + 100),
        "a negative length": _HEAD + b"Content-Length: -5\r\n\r\n" + png,
        "a length in words": _HEAD + b"Content-Length: ten\r\n\r\n" + png,
        "two lengths": _HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + png,
        "a length of 2^70": _HEAD + b"Content-Length: %d\r\n\r\n" % 2**70 + png,
        "length and chunks": _HEAD
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunks without end": chunked + b"5\r\nhello\r\n",
        "a chunk of no number": chunked + b"zz\r\nhello\r\n0\r\n\r\n",
        "a chunk of 2^66 bytes": chunked + b"40000000000000000\r\nhello\r\n",
        "one byte a chunk": chunked + dribble,
        "a million chunks of one byte": chunked + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n",
        "compressed": _sized(b"Content-Encoding: gzip\r\n", b"\x1f\x8b\x08" + bytes(40)),
        "no boundary": _sized(b"Content-Type: multipart/form-data\r\n", png),
        "a boundary of 300 bytes": _sized(
            b"Content-Type: multipart/form-data; boundary=" + b"y" * 300 + b"\r\n", png
        ),
        "another boundary": _sized(_FORM, b"--y\r\n\r\n\r\n--y--\r\n"),
        "a form without end": _sized(_FORM, file),
        "two files": _sized(_FORM, file + file + b"--x--\r\n"),
        "no file": _sized(_FORM, _part(b"other", b"1") + b"--x--\r\n"),
        "1001 fields": _sized(_FORM, _part(b"a", b"1") * 1001 + file + b"--x--\r\n"),
        "a field of 100 KB": _sized(_FORM, _part(b"a", b"1" * 100_000) + file + b"--x--\r\n"),
        "a part with a header of 64 KB": _sized(
            _FORM, _part(b"file", png, b'; filename="' + b"n" * 65_536 + b'"') + b"--x--\r\n"
        ),
        "a name with a path, a NUL and an override": _sized(
            _FORM, _part(b"file", png, b'; filename="../../\0\xe2\x80\xae/etc/x"') + b"--x--\r\n"
        ),
        "a preamble of 100 KB": _sized(_FORM, b"p" * 100_000 + b"\r\n" + file + b"--x--\r\n"),
        "a header of 100 KB": _sized(b"X-Long: " + b"h" * 100_000 + b"\r\n", png),
        "10000 headers": _sized(b"A: b\r\n" * 10_000, png),
        "101 headers": _sized(b"A: b\r\n" * 101, png),
        "a method of its own": b"UPSCALE /upscale HTTP/1.1\r\nHost: %b\r\n\r\n",
        "a bad request line": b"POST\0/upscale HTTP/1.1\r\nHost: %b\r\n\r\n",
        "another protocol": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100),
        "http 1.0": b"POST /upscale HTTP/1.0\r\nHost: %%b\r\nContent-Length: %d\r\n\r\n" % len(png)
        + png,
        "a digest that cannot be read": _sized(b"Content-Digest: md5=:AA==:\r\n", png),
        "another digest": _sized(
            b"Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\r\n", png
        ),
    }


EXPECTED: dict[str, tuple[str, ...]] = {
    "empty body": ("400",),
    "fewer bytes than announced": ("408",),
    "a negative length": ("400",),
    "a length in words": ("400",),
    "two lengths": ("400",),
    "a length of 2^70": ("413", "400"),
    "length and chunks": ("400",),
    "chunks without end": ("408",),
    "a chunk of no number": ("400", "closed"),
    "a chunk of 2^66 bytes": ("408", "413"),
    "one byte a chunk": ("200",),
    "a million chunks of one byte": ("closed", "408", "415"),
    "compressed": ("415",),
    "no boundary": ("400",),
    "a boundary of 300 bytes": ("400",),
    "another boundary": ("400",),
    "a form without end": ("400",),
    "two files": ("400",),
    "no file": ("400",),
    "1001 fields": ("400",),
    "a field of 100 KB": ("400",),
    "a part with a header of 64 KB": ("400",),
    "a name with a path, a NUL and an override": ("200",),
    "a preamble of 100 KB": ("200", "400"),
    "a header of 100 KB": ("431", "400"),
    "10000 headers": ("431", "400"),
    "101 headers": ("431",),
    "a method of its own": ("404", "405"),
    "a bad request line": ("400", "closed"),
    "another protocol": ("400", "closed"),
    "http 1.0": ("200",),
    "a digest that cannot be read": ("400",),
    "another digest": ("400",),
}


def answer(url: str, request: bytes) -> str:
    """The status of the answer to ``request``; ``closed`` when there is none."""
    parts = urlsplit(url)
    host = parts.netloc.encode()
    head, separator, body = request.partition(b"\r\n\r\n")
    with socket.create_connection((parts.hostname, parts.port or 80), 20) as connection:
        received = b""
        with suppress(OSError):
            connection.sendall(head.replace(b"%b", host) + separator + body)
        with suppress(OSError):
            while b"\r\n" not in received and (data := connection.recv(4096)):
                received += data
    return received[9:12].decode() if received.startswith(b"HTTP/1.") else "closed"
