"""A job is played while it is made: playlist, fragments, their times, and who may have them."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.fragments import codec_string, decode_order_samples, fragment_head
from server.playback import Playback, StreamIndex
from tests.server.gate import Gate, gated_server
from tests.server.live import LiveServer, live_server, suspended_workers, wait_ready, wait_until

Json = dict[str, Any]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gated_server(tmp_path_factory.mktemp("gate"), 20, SR_SEGMENT_SECONDS="0.3") as running:
        yield running


@pytest.fixture(scope="module")
def server(gate: Gate, followed: Json) -> LiveServer:
    """With ``followed`` done: the gate is open."""
    return gate.server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def clip() -> bytes:
    """One second of noise, 32x32, with a key frame every eight frames."""
    buffer = io.BytesIO()
    random = np.random.default_rng(0)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "8", "x264-params": "open-gop=0"}
        for _ in range(24):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wait_done(client: httpx.Client, job: str) -> None:
    with client.stream("GET", f"/jobs/{job}/events") as answer:
        last = [line for line in answer.iter_lines() if line.startswith("data: ")][-1]
    assert '"state":"done"' in last


def submit(client: httpx.Client, clip: bytes, query: str = "") -> str:
    answer = client.post(f"/jobs?{query}", content=clip)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def entries(playlist: str) -> list[str]:
    return [line for line in playlist.splitlines() if not line.startswith("#")]


def frames_of(video: bytes) -> list[tuple[float, bytes]]:
    """(time, pixels) of every frame, by a demuxer that follows time stamps."""
    with av.open(io.BytesIO(video)) as container:
        return [(f.time or 0.0, f.to_ndarray().tobytes()) for f in container.decode(video=0)]


def whole_stream(client: httpx.Client, job: str, playlist: str) -> bytes:
    head = client.get(f"/jobs/{job}/stream/init.mp4").content
    return head + b"".join(client.get(f"/jobs/{job}/{name}").content for name in entries(playlist))


@pytest.fixture(scope="module")
def followed(gate: Gate) -> Json:
    """A job whose playlist was asked for again and again until the job was done."""
    clip = Path(__file__).parents[1] / "data" / "demo" / "city_256x256.mp4"
    seen: list[str] = []
    with gate.server.client() as client:
        job = submit(client, clip.read_bytes(), "height=256")

        def follow() -> bool:
            answer = client.get(f"/jobs/{job}/playlist.m3u8")
            assert answer.status_code == 200
            if entries(answer.text) and answer.text not in seen[-1:]:
                if not seen:  # until then it could be done before anybody looks
                    gate.tell()
                seen.append(answer.text)
                assert answer.headers["X-SR-Codecs"].startswith('video/mp4; codecs="avc1.')
            return "#EXT-X-ENDLIST" in answer.text

        wait_until(follow, "the end of the playlist")
    return {"id": job, "seen": seen}


def test_the_playlist_only_grows_and_then_ends(followed: Json) -> None:
    seen = followed["seen"]
    assert len(seen) > 1, "it was never seen growing"
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in seen[0]
    assert all("#EXT-X-ENDLIST" not in playlist for playlist in seen[:-1])
    for before, after in pairwise(seen):
        assert entries(after)[: len(entries(before))] == entries(before)
    target = next(line for line in seen[-1].splitlines() if "TARGETDURATION" in line)
    lengths = [float(line[8:-1]) for line in seen[-1].splitlines() if line.startswith("#EXTINF")]
    assert max(lengths) <= int(target.partition(":")[2])
    assert sum(lengths) == pytest.approx(41 / 30, abs=0.05)


def test_the_fragments_hold_every_frame_of_the_result_at_its_time(
    client: httpx.Client, followed: Json
) -> None:
    stream = frames_of(whole_stream(client, followed["id"], followed["seen"][-1]))
    result = frames_of(client.get(f"/jobs/{followed['id']}/result").content)
    assert [pixels for _, pixels in stream] == [pixels for _, pixels in result]
    # FFmpeg shifts all of a stream with negative offsets by the same time; browsers do not.
    first, start = stream[0][0], result[0][0]
    assert [time - first for time, _ in stream] == pytest.approx(
        [time - start for time, _ in result], abs=1e-4
    )


def test_a_player_for_hls_plays_it_from_the_server(server: LiveServer, followed: Json) -> None:
    url = f"{server.url}/jobs/{followed['id']}/playlist.m3u8"
    with av.open(url, options={"protocol_whitelist": "http,tcp,hls"}) as container:
        assert container.format.name == "hls"
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == 41
    assert times == sorted(times)


def test_a_job_that_nobody_followed_can_still_be_played(
    server: LiveServer, client: httpx.Client, clip: bytes
) -> None:
    job = submit(client, clip, "codec=libx265")
    wait_done(client, job)
    answer = client.get(f"/jobs/{job}/playlist.m3u8")
    assert "#EXT-X-ENDLIST" in answer.text
    assert 'codecs="hvc1.1.' in answer.headers["X-SR-Codecs"]
    stream = frames_of(whole_stream(client, job, answer.text))
    result = frames_of(client.get(f"/jobs/{job}/result").content)
    assert [pixels for _, pixels in stream] == [pixels for _, pixels in result]


def test_fragments_have_ranges_and_no_other_names(client: httpx.Client, followed: Json) -> None:
    path = f"/jobs/{followed['id']}/stream"
    whole = client.get(f"{path}/0.m4s")
    assert whole.headers["Content-Type"] == "video/mp4"
    part = client.get(f"{path}/0.m4s", headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    beyond = client.get(f"{path}/0.m4s", headers={"Range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416
    for name, status in (("999.m4s", 404), ("index.json", 400), ("..%2finput", 404)):
        assert client.get(f"{path}/{name}").status_code == status


def test_what_cannot_be_played_yet_is_not_there(
    server: LiveServer, client: httpx.Client, data: Path
) -> None:
    assert client.get(f"/jobs/{'0' * 32}/playlist.m3u8").status_code == 404
    with ThreadPoolExecutor(1) as thread:
        with suspended_workers(server):
            job = submit(client, (data / "demo" / "city_256x256.mp4").read_bytes())
            first = client.get(f"/jobs/{job}/playlist.m3u8")
            assert (first.status_code, entries(first.text)) == (200, [])
            assert "#EXT-X-ENDLIST" not in first.text
            assert client.get(f"/jobs/{job}/stream/init.mp4").status_code == 404
            stopping = thread.submit(client.post, f"/jobs/{job}/cancel")
            state = lambda: client.get(f"/jobs/{job}").json()["state"]  # noqa: E731
            wait_until(lambda: state() == "cancelled", "a cancelled job")
            assert client.get(f"/jobs/{job}/playlist.m3u8").status_code == 404
        assert stopping.result().status_code == 200
    assert client.delete(f"/jobs/{job}").status_code == 204


def test_a_signed_link_opens_the_playlist_and_all_that_it_names(
    tmp_path: Path, clip: bytes
) -> None:
    public = partial(live_server, tmp_path, "--host", "0.0.0.0", SR_PLAYBACK_KEEP_SECONDS="1000")
    with public() as server:
        wait_ready(server)
        key = {"Authorization": f"Bearer {server.key}"}
        with server.client(headers=key) as owner, server.client() as stranger:
            job = submit(owner, clip)
            wait_done(owner, job)
            link = owner.post(f"/jobs/{job}/link").json()["playlist"]
            playlist = stranger.get(link)
            assert playlist.status_code == 200
            for name in entries(playlist.text):
                assert "signature=" in name
                assert stranger.get(f"/jobs/{job}/{name}").status_code == 200
            for bare in ("playlist.m3u8", "stream/init.mp4", "stream/0.m4s"):
                assert stranger.get(f"/jobs/{job}/{bare}").status_code == 401
    # Nobody has asked for longer than that: the copies go, and can be made again.
    stream = tmp_path / "jobs" / job / "stream"
    asked_at = time.time() - 1001
    os.utime(stream / "index.json", (asked_at, asked_at))
    with public() as server, server.client() as stranger:
        wait_until(lambda: not stream.exists(), "a stream that was removed")
        assert stranger.get(link).text == playlist.text


def test_a_stream_that_vanishes_meanwhile_does_not_end_the_cleaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, old = (tmp_path / name / "stream" / "index.json" for name in ("gone", "old"))
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone, old]))

    async def test() -> None:
        cleaning = asyncio.create_task(Playback(tmp_path, 1000, 10).clean_for_ever())
        while old.parent.exists() and not cleaning.done():
            await asyncio.sleep(0.01)
        cleaning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cleaning

    asyncio.run(asyncio.wait_for(test(), 60))


@given(
    gaps=st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    end_gap=st.integers(0, 9000),
    data=st.data(),
)
def test_a_fragment_fills_its_time_without_a_gap(
    gaps: list[int], end_gap: int, data: st.DataObject
) -> None:
    pts = [sum(gaps[:index]) for index in range(len(gaps))]
    order = data.draw(st.permutations(range(len(pts))))
    packets = [(place, 10 + place, index == 0) for index, place in enumerate(order)]
    samples = decode_order_samples(pts, pts[-1] + end_gap, packets)
    assert sum(sample.duration for sample in samples) == max(end_gap, 1) + pts[-1] - pts[0]
    decoded = pts[0]
    for sample, (place, size, _) in zip(samples, packets, strict=True):
        assert decoded + sample.offset == pts[place]
        assert sample.size == size
        decoded += sample.duration
    head = fragment_head(3, 7, samples)
    moof = int.from_bytes(head[:4], "big")
    assert head[4:8] == b"moof"
    assert head[moof + 4 : moof + 8] == b"mdat"
    assert int.from_bytes(head[moof : moof + 4], "big") == 8 + sum(s.size for s in samples)


def test_codec_strings_are_those_that_browsers_know() -> None:
    assert codec_string("h264", bytes.fromhex("0164002aff")) == "avc1.64002A"
    hevc = bytes.fromhex("01016000000090000000000099f0")
    assert codec_string("hevc", hevc) == "hvc1.1.6.L153.90"
    assert codec_string("av1", bytes.fromhex("81084c00")) == "av01.0.08M.10"
    assert codec_string("vp9", b"") == ""


def test_an_index_without_an_end_is_a_playlist_that_goes_on() -> None:
    index = StreamIndex(target_seconds=7, seconds=[6.0])
    assert "#EXT-X-ENDLIST" not in index.playlist()
    assert entries(index.playlist("?key=1")) == ["stream/0.m4s?key=1"]
    index.ended = True
    assert index.playlist().endswith("#EXT-X-ENDLIST\n")
