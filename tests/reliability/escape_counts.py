"""Every hostile container past the parser, in a network of its own: what left it is counted.

``unshare -rn python -m tests.reliability.escape_counts FOLDER alone`` prints JSON. In a network
that nobody else uses every packet on loopback is ours; without ``alone`` none are counted.
The forks of the decode child keep the network here: what is counted is that they do not even try.
"""

from __future__ import annotations

import fcntl
import io
import json
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import av

from server.media.errors import MediaError
from server.picture_decoder import PictureDecoder
from tests.corpus import hostile
from tests.reliability.canary import Canary, FileWatch, canary_server
from tests.reliability.decode_forks import DecodeForks
from tests.server.media.clips import Clip, write_clip

NAMES = ("upload", "evil.m3u8", "evil%03d.mp4")
"""Some parsers go by the name; the service gives every upload the first one."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_PACKETS_RECEIVED = 2
_PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8", b"<svg")


@dataclass
class Escapes:
    """What was seen from outside."""

    decodes: int = 0
    packets: int | None = None
    """On loopback, the only interface; None where it is shared with others."""
    connections: int = 0
    looks: int = 0
    """At a good video beside the upload, under the name that the uploads ask for."""
    stray_files: int = 0


class NamedBytes(io.BytesIO):
    """What FFmpeg believes to be a playlist by its name."""

    name = "a.m3u8"


def armed(content: bytes, canary: Canary) -> bytes:
    """``content`` that asks for the real canary."""
    return content.replace(hostile.CANARY, f"http://127.0.0.1:{canary.port}/canary.ts".encode())


def start_loopback() -> None:
    """In a new name space it is down, and then nothing that tries to get out is seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def packets() -> int:
    """Received on loopback since it is there: whatever is sent on it is received on it."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    line = next(line for line in lines if line.strip().startswith("lo:"))
    return int(line.split()[_PACKETS_RECEIVED])


@dataclass
class Witnesses:
    """Who looks on."""

    folder: Path
    canary: Canary
    watch: FileWatch
    counts_packets: bool

    def hostile_set(self) -> Escapes:
        """Every hostile container under every name, and as a picture where it begins like one."""
        before, connections = packets(), self.canary.connections
        names, found = set(self.folder.iterdir()), Escapes()
        payloads = {**hostile.hostile(), "gab2": hostile.playlist_in_avi()}
        with DecodeForks() as forks, PictureDecoder() as pictures:
            for payload in payloads.values():
                content = armed(payload, self.canary)
                for name in NAMES:
                    path = self.folder / name
                    path.write_bytes(content)
                    outcome = forks.decode(path)
                    assert outcome.died is None, outcome
                    path.unlink()
                    found.decodes += 1
                if content.startswith(_PICTURE_STARTS):
                    with suppress(MediaError):
                        pictures.decode(content)
                        raise AssertionError("a playlist was taken for a picture")
                    found.decodes += 1
        return self._seen(found, before, connections, names)

    def unguarded(self) -> Escapes:
        """The positive control: a playlist and a script, opened as FFmpeg does it by itself."""
        before, connections = packets(), self.canary.connections
        names, found = set(self.folder.iterdir()), Escapes(decodes=2)
        payloads = hostile.hostile()
        with suppress(av.FFmpegError):
            av.open(NamedBytes(armed(payloads["hls http"], self.canary)), timeout=5).close()
        script = self.folder / "evil.mp4"
        script.write_bytes(payloads["ffconcat relative"])
        with av.open(str(script)) as opened:
            assert len(list(opened.decode(video=0))) == 6
        return self._seen(found, before, connections, names)

    def _seen(self, found: Escapes, before: int, connections: int, names: set[Path]) -> Escapes:
        found.packets = packets() - before if self.counts_packets else None
        found.connections = self.canary.connections - connections
        found.looks = self.watch.looks()
        found.stray_files = len(set(self.folder.iterdir()) - names)
        return found


def main() -> None:
    folder, is_alone = Path(sys.argv[1]), sys.argv[2:] == ["alone"]
    if is_alone:
        start_loopback()
    sibling = write_clip(folder / hostile.SIBLING.decode(), Clip(muxer="mpegts"))
    watch = FileWatch(sibling)
    with canary_server() as canary:
        witnesses = Witnesses(folder, canary, watch, counts_packets=is_alone)
        found, control = witnesses.hostile_set(), witnesses.unguarded()
    watch.close()
    print(json.dumps({"hostile": asdict(found), "control": asdict(control)}))


if __name__ == "__main__":
    main()
