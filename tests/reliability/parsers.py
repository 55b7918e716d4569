"""The parsers of bytes from outside that are ours, each as a function of bytes for a fuzzer.

A target returns for anything that is valid or refused as it should be. Whatever else it raises is
a finding.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server.content_digest import ContentDigest
from server.errors import ApiError
from server.manifest import manifest_from_dict
from server.media import ledger
from server.media.errors import MediaError
from server.media.picture_header import read_header
from server.media.sniff import sniff
from server.media.structure import missing_bytes


def magic(data: bytes) -> None:
    """The sniffer."""
    with suppress(MediaError):
        assert sniff(data[:512]).kind in ("picture", "video")


def manifest(data: bytes) -> None:
    """A manifest on the disk."""
    with suppress(ValueError, TypeError, RecursionError):
        values = json.loads(data)
        manifest_from_dict(values).to_json()


def job_ledger(data: bytes) -> None:
    """The ledger of segments after a crash of the machine."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder, suppress(RecursionError):
        Path(folder, ledger.FILE_NAME).write_bytes(data)
        found = ledger.read(Path(folder))
        assert found is None or found.frames >= 0


def length(data: bytes) -> None:
    """What a container says of its length."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file, suppress(MediaError):
        file.write(data)
        file.flush()
        assert missing_bytes(Path(file.name)) >= 0


def picture_header(data: bytes) -> None:
    """Size and depth of a picture."""
    with suppress(MediaError):
        header = read_header(io.BytesIO(data))
        assert header.width > 0 < header.height


def digest_header(data: bytes) -> None:
    """``Content-Digest``."""
    with suppress(ApiError):
        ContentDigest(data.decode("latin-1"))


_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

TARGETS: dict[str, Callable[[bytes], None]] = {
    "magic": magic,
    "manifest": manifest,
    "ledger": job_ledger,
    "length": length,
    "picture": picture_header,
    "digest": digest_header,
}

SEEDS: dict[str, tuple[bytes, ...]] = {
    "magic": (b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3webm", b"RIFF\0\0\0\0AVI ", b"G" + bytes(187)),
    "manifest": (b'{"frames_in": 1, "schema": 1}',),
    "ledger": (
        b'{"fingerprint":"f","time_base":"1/25","shift":0,"schema":1}\n'
        b'{"row":{"file":"a","sha256":"b","pts":[1],"durations":[1],"order":[0]}}\n'
        b'{"summary":{}}\n',
    ),
    "length": (
        b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08moov",
        b"\x1aE\xdf\xa3\x80\x18S\x80g\x80",
        b"RIFF\x20\0\0\0AVI ",
        b"GIF89a\x01\0\x01\0\0\0\0;",
    ),
    "picture": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0",
        b"\xff\xd8\xff\xc0\0\x11\x08\0\x01\0\x01\x03",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0",
    ),
    "digest": (b"sha-256=:AAAA:", b"md5=:AAAA:, sha-512=:AAAA:"),
}
"""Where a fuzzer starts."""
