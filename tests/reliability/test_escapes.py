"""No upload makes the service look at another file or open a connection.

The decode child also leaves the network (``server.media.sandbox``). Here its parser runs without
that, in forks that can reach the canary: what is tested is that it does not even try.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import pytest

from server.media.errors import MediaError
from server.picture_decoder import PictureDecoder
from tests.corpus import hostile
from tests.reliability.canary import Canary, FileWatch, canary_server
from tests.reliability.decode_forks import DecodeForks
from tests.server.media.clips import Clip, write_clip

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    with canary_server() as server:
        yield server


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[FileWatch]:
    """On a good video beside the uploads, under the name that they ask for."""
    sibling = write_clip(tmp_path / hostile.SIBLING.decode(), Clip(muxer="mpegts"))
    opened = FileWatch(sibling)
    yield opened
    opened.close()


class NamedBytes(io.BytesIO):
    """What FFmpeg believes to be a playlist by its name."""

    name = "a.m3u8"


def armed(content: bytes, canary: Canary) -> bytes:
    """``content`` that asks for the real canary."""
    old = hostile.CANARY
    return content.replace(old, f"http://127.0.0.1:{canary.port}/canary.ts".encode())


def test_the_witnesses_see_what_an_unguarded_parser_does(
    tmp_path: Path, canary: Canary, watch: FileWatch
) -> None:
    """The positive control: without our way of opening, both escapes happen."""
    payloads = hostile.hostile()
    playlist = NamedBytes(armed(payloads["hls http"], canary))
    with suppress(av.FFmpegError):
        av.open(playlist, timeout=5).close()
    assert canary.paths
    script = tmp_path / "evil.mp4"
    script.write_bytes(payloads["ffconcat relative"])
    with av.open(str(script)) as opened:
        assert len(list(opened.decode(video=0))) == 6
    assert watch.looks()
    canary.connections = 0
    canary.paths.clear()


@pytest.mark.timeout(300)
def test_no_hostile_container_reaches_a_file_or_an_address(
    tmp_path: Path, canary: Canary, watch: FileWatch
) -> None:
    before = canary.connections
    payloads = {**hostile.hostile(), "gab2": hostile.playlist_in_avi()}
    names = {path.name for path in tmp_path.iterdir()}
    with DecodeForks() as forks, PictureDecoder() as pictures:
        for payload in payloads.values():
            for name in ("evil.m3u8", "evil%03d.mp4"):
                path = tmp_path / name
                path.write_bytes(armed(payload, canary))
                outcome = forks.decode(path)
                assert outcome.died is None
                path.unlink()
            if payload.startswith((b"\x89PNG", b"\xff\xd8", b"<svg")):
                with pytest.raises(MediaError):
                    pictures.decode(armed(payload, canary))
    assert canary.connections == before
    assert watch.looks() == 0
    assert {path.name for path in tmp_path.iterdir()} == names


PROGRAM = """
import json, sys
from pathlib import Path
from server.media.decode import DecodeOptions, Decoder
from server.media.errors import MediaError
from server.media.limits import Limits
from server.picture_decoder import PictureDecoder
from tests.corpus.hostile import hostile, playlist_in_avi
folder = Path(sys.argv[1])
refused = 0
for name in ("hls http", "m3u8 behind a movie's magic", "m3u8 behind a free box"):
    (folder / "upload").write_bytes(hostile()[name])
    try:
        Decoder(folder / "upload", DecodeOptions(Limits())).close()
    except MediaError:
        refused += 1
(folder / "upload").write_bytes(playlist_in_avi())
with Decoder(folder / "upload", DecodeOptions(Limits())) as decoder:
    frames = sum(1 for _ in decoder)
print(json.dumps({"refused": refused, "frames": frames, "sandbox": decoder.info.sandbox}))
"""


def test_the_real_child_says_what_it_gave_up_and_works_without_a_network(tmp_path: Path) -> None:
    prefix = ["unshare", "-rn"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        prefix = []  # no user namespaces here: the child must say that it keeps the network
    answer = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    facts = json.loads(answer.stdout)
    assert (facts["refused"], facts["frames"]) == (3, 3)
    assert facts["sandbox"]["privileges"]
    if prefix:
        assert facts["sandbox"]["network"]
