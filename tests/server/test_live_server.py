"""The live mode from the outside: a real server, a real WebSocket client."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from websockets.exceptions import InvalidStatus

from engine.backends.nearest import enlarge
from engine.frames import Bytes, Nv12
from engine.gate_frames import to_nv12, to_rgb24
from server.access import hash_key
from server.live.wire import HEADER_BYTES, AnswerHeader
from tests.server.live import (
    DEADLINE_SECONDS,
    LiveServer,
    kill_workers,
    live_server,
    suspended_workers,
    wait_ready,
    wait_until,
)
from tests.server.live_client import (
    END,
    Json,
    drain,
    first_answer,
    hello,
    open_stream,
    send_all,
)

KEYS = {"first": "k-one", "second": "k-two", "third": "k-three"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("data")
    keys = folder / "keys"
    keys.write_text("".join(f"{name}:{hash_key(key)}\n" for name, key in KEYS.items()))
    settings = {
        "SR_WORKERS": "3",
        "SR_API_KEYS_FILE": str(keys),
        "SR_MAX_LIVE_PIXELS": "1024",
        "SR_MAX_LIVE_STREAMS": "2",
        "SR_LIVE_STREAMS_PER_KEY": "1",
        "SR_REQUESTS_PER_SECOND": "1000",
        "SR_SLOW_READER_SECONDS": "3",
        "SR_QUEUE_SECONDS": "80",
        "SR_REQUEST_BURST": "1000",
    }
    with live_server(folder, **settings) as running:
        with running.client() as client:
            wait_until(partial(are_idle, client), "idle workers")
        yield running


def are_idle(client: httpx.Client) -> bool:
    return bool(client.get("/readyz").json()["workers"] == ["idle"] * 3)


def are_open(client: httpx.Client, streams: int) -> bool:
    """Whether so many count as open: one that is closed does until its session has ended."""
    return f"sr_live_streams {streams}.0" in client.get("/metrics").text


@pytest.fixture(autouse=True)
def streams_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Or the first stream of the next one could be one too many."""
    yield
    if "server" in request.fixturenames:
        running: LiveServer = request.getfixturevalue("server")
        with running.client(headers={"X-API-Key": "k-one"}) as client:
            wait_until(partial(are_open, client, 0), "no stream open")


def noise(count: int, width: int, height: int) -> list[Bytes]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def jpeg(pixels: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def packed(frame: Bytes | Nv12) -> bytes:
    return frame.y.tobytes() + frame.uv.tobytes() if isinstance(frame, Nv12) else frame.tobytes()


@pytest.mark.parametrize("form", ["rgb24", "nv12", "jpeg"])
@pytest.mark.parametrize("answer", ["rgb24", "nv12", "jpeg"])
def test_every_format_becomes_every_format_at_odd_sizes(
    server: LiveServer, form: str, answer: str
) -> None:
    frames = noise(3, 13, 7)
    query = f"width=13&height=7&format={form}&answer={answer}&mode=lossless"
    with open_stream(server, query) as stream:
        assert hello(stream)["engine"]["name"] == "nearest"
        for frame in frames:
            stream.send(
                {"rgb24": packed(frame), "nv12": packed(to_nv12(frame))}.get(form, jpeg(frame))
            )
        stream.send(END)
        answers, texts, code = drain(stream)
    assert (code, texts[-1]["type"], texts[-1]["answered"]) == (1000, "end", 3)
    for number, ((header, payload), frame) in enumerate(zip(answers, frames, strict=True)):
        assert (header.frame, header.width, header.height, header.format) == (
            number,
            52,
            28,
            answer,
        )
        if form == "jpeg":
            frame = np.array(Image.open(io.BytesIO(jpeg(frame))))
        if form == "nv12":
            seen = (
                enlarge(to_nv12(frame)) if answer == "nv12" else enlarge(to_rgb24(to_nv12(frame)))
            )
        else:
            seen = enlarge(to_nv12(frame) if answer == "nv12" else frame)
        if answer == "jpeg":
            found = np.array(Image.open(io.BytesIO(payload))).astype(int)
            assert found.shape == (28, 52, 3)
            assert np.abs(found - seen).mean() < 25  # noise is what JPEG does worst
        else:
            assert payload == packed(seen)


def test_lossless_waits_for_a_slow_reader_and_loses_nothing(server: LiveServer) -> None:
    frames = noise(1, 32, 32) * 400
    with open_stream(server) as stream:
        first = {
            "width": 32,
            "height": 32,
            "format": "rgb24",
            "answer": "rgb24",
            "mode": "lossless",
        }
        stream.send(json.dumps({**first, "in_work": 4}))
        hello(stream)
        sent: list[int] = []

        def send() -> None:
            for number, frame in enumerate(frames):
                stream.send(frame.tobytes())  # blocks as soon as the server reads no further
                sent.append(number)
            stream.send(END)

        sender = threading.Thread(target=send)
        sender.start()
        answers, texts, code = drain(stream)
        sender.join()
    assert code == 1000
    assert [header.frame for header, _ in answers] == list(range(400))
    assert all(header.dropped == 0 for header, _ in answers)
    assert all(text["in_work"] <= 4 for text in texts if text["type"] == "stats")


def test_latest_answers_the_newest_frame_and_counts_what_it_dropped(server: LiveServer) -> None:
    with open_stream(server, "width=32&height=32&format=rgb24&answer=rgb24&in_work=1") as stream:
        hello(stream)
        for frame in noise(1, 32, 32) * 200:
            stream.send(frame.tobytes())
        stream.send(noise(2, 32, 32)[1].tobytes())
        stream.send(END)
        answers, texts, code = drain(stream)
    numbers = [header.frame for header, _ in answers]
    assert numbers == sorted(set(numbers))
    end = texts[-1]
    assert "received" in end, (end, server.log()[-3000:])
    assert (code, end["received"], end["answered"] + end["dropped"]) == (1000, 201, 201)
    assert end["dropped"] > 0
    assert end["latency_ms"]["p50"] <= end["latency_ms"]["p95"]
    dropped = [header.dropped for header, _ in answers]
    assert dropped == sorted(dropped)


@pytest.mark.parametrize(
    ("query", "messages", "code", "status"),
    [
        ("width=8&height=8&format=rgb24", [bytes(191)], "bad_request", 400),
        ("width=8&height=8&format=rgb24", [bytes(193)], "bad_request", 400),
        ("width=9&height=9&format=nv12", [bytes(9 * 9 * 3 // 2)], "bad_request", 400),
        ("width=8&height=8", [b"no picture"], "unsupported_media", 415),
        ("width=8&height=8", [jpeg(np.zeros((9, 8, 3), np.uint8))], "unusable_media", 422),
        ("width=8&height=8", [bytes(200_000)], "too_large", 413),
        ("width=8&height=8&format=rgb24", ["hello?"], "bad_request", 400),
        ("width=8&height=8&format=rgb24", [END, bytes(192)], "bad_request", 400),
        ("width=41&height=25", [], "over_limit", 422),
        ("width=41", [], "bad_parameter", 400),
        ("", [b"first"], "bad_request", 400),
        ("", ["{}"], "bad_parameter", 400),
        ("", ["[1"], "bad_request", 400),
    ],
)
def test_a_wrong_message_ends_the_stream_with_the_error_form(
    server: LiveServer, query: str, messages: list[str | bytes], code: str, status: int
) -> None:
    with contextlib.ExitStack() as stack:
        with suspended_workers(server):  # none has ended a stream before its last message is sent
            stream = stack.enter_context(open_stream(server, query))
            send_all(stream, *messages)
        _, texts, closed = drain(stream)
    error = texts[-1]["error"]
    assert closed == 4000 + status, texts
    assert error["code"] == code
    assert set(error) == {"code", "message", "limit", "actual", "request_id"}
    assert error["request_id"]


@pytest.mark.parametrize(
    ("width", "height", "taken"), [(33, 31, True), (32, 32, True), (41, 25, False)]
)
def test_the_limit_of_pixels(server: LiveServer, width: int, height: int, taken: bool) -> None:
    with open_stream(server, f"width={width}&height={height}&format=rgb24") as stream:
        send_all(stream, bytes(width * height * 3), END)
        answers, texts, code = drain(stream)
    if taken:
        assert (code, len(answers)) == (1000, 1)
    else:
        assert (code, texts[-1]["error"]["limit"], texts[-1]["error"]["actual"]) == (
            4422,
            1024,
            1025,
        )


def test_the_limits_of_streams_of_one_caller_and_of_all(server: LiveServer) -> None:
    query = "width=8&height=8&format=rgb24"
    with open_stream(server, query) as one:
        hello(one)
        with open_stream(server, query) as again:
            _, texts, code = drain(again)
        assert (code, texts[0]["error"]["code"]) == (4429, "too_many_streams")
        with open_stream(server, query, key="k-two") as two:
            hello(two)
            with open_stream(server, query, key="k-three") as three:
                _, texts, code = drain(three)
            assert (code, texts[0]["error"]["code"], texts[0]["error"]["limit"]) == (
                4503,
                "queue_full",
                2,
            )
            one.send(END)
            drain(one)
            with server.client(headers={"X-API-Key": "k-one"}) as client:
                wait_until(partial(are_open, client, 1), "one stream open")
            with open_stream(server, query, key="k-three") as three:
                hello(three)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"key": None}, 401),
        ({"key": "wrong"}, 401),
        ({"key": None, "headers": {"Authorization": "Bearer k-two"}}, 101),
        ({"key": None, "subprotocols": ["sr-stream", "k-two"]}, 101),
        ({"key": None, "subprotocols": ["sr-stream", "wrong"]}, 401),
        ({"key": None, "subprotocols": ["other", "k-two"]}, 401),
        ({"headers": {"Origin": "https://elsewhere.example"}}, 403),
    ],
)
def test_who_may_open_a_stream(server: LiveServer, options: Json, status: int) -> None:
    query = "width=8&height=8&format=rgb24"
    if status == 101:
        with open_stream(server, query, **options) as stream:
            assert stream.subprotocol == ("sr-stream" if "subprotocols" in options else None)
            hello(stream)
        return
    with pytest.raises(InvalidStatus) as refused:
        open_stream(server, query, **options)
    assert refused.value.response.status_code == status
    assert refused.value.response.body is not None
    assert set(json.loads(refused.value.response.body)["error"]) >= {"code", "message"}


def test_a_client_that_leaves_frees_its_worker_and_leaves_nothing(server: LiveServer) -> None:
    for abrupt in (True, False):
        with open_stream(server, "width=32&height=32&mode=lossless") as stream:
            hello(stream)
            stream.send(jpeg(noise(1, 32, 32)[0]))
            if abrupt:
                stream.socket.close()
        with server.client(headers={"X-API-Key": "k-one"}) as client:
            wait_until(partial(are_open, client, 0), "no stream open")
    with server.client(headers={"X-API-Key": "k-one"}) as client:
        wait_until(partial(are_idle, client), "idle workers")
        text = client.get("/metrics").text
        assert client.get("/limits").json()["max_live_pixels"]["value"] == 1024
    assert 'sr_live_frames_total{outcome="answered"}' in text
    assert 'sr_live_frames_total{outcome="dropped"}' in text
    assert not list((server.data_dir / "spool").iterdir())
    children = psutil.Process(server.process.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in alive if "server.live.jpeg_child" in child.cmdline()]


def test_a_client_that_takes_nothing_is_given_up(server: LiveServer) -> None:
    query = "width=32&height=32&format=rgb24&answer=rgb24&mode=lossless"
    frames = [noise(1, 32, 32)[0].tobytes()] * 2000  # 98 MB of answers: more than sockets hold
    with open_stream(server, query) as stream, server.client() as client:
        sender = threading.Thread(target=send_all, args=(stream, *frames))
        sender.start()
        open_now = "sr_live_streams 1.0"
        headers = {"X-API-Key": "k-one"}
        shown = lambda: client.get("/metrics", headers=headers).text  # noqa: E731
        wait_until(lambda: open_now in shown(), "an open stream")
        wait_until(lambda: open_now not in shown(), "a stream that was given up")
        stream.socket.close()
        sender.join()


def test_a_worker_that_dies_ends_its_stream_and_the_next_one_works(server: LiveServer) -> None:
    query = "width=8&height=8&format=rgb24&answer=rgb24"
    with open_stream(server, query) as stream:
        hello(stream)
        kill_workers(server.process.pid)
        _, texts, code = drain(stream)
    assert (code, texts[-1]["error"]["code"]) == (4500, "engine_failed")
    with server.client(headers={"X-API-Key": "k-one"}) as client:
        wait_until(partial(are_open, client, 0), "no stream open")
    with open_stream(server, query) as stream:
        hello(stream)
        stream.send(bytes(192))
        stream.send(END)
        assert len(drain(stream)[0]) == 1


def example_of_the_documentation() -> str:
    text = (Path(__file__).parents[2] / "docs" / "api-live.md").read_text()
    return text.partition("```python\n")[2].partition("```")[0]


def test_a_stream_without_frames_is_ended(tmp_path: Path) -> None:
    with live_server(tmp_path, SR_LIVE_IDLE_SECONDS="1") as server:
        wait_ready(server)
        with open_stream(server, "width=8&height=8&format=rgb24") as stream:
            hello(stream)
            answers, texts, code = drain(stream)
    error = texts[-1]["error"]
    assert (code, error["code"], error["limit"], answers) == (4408, "too_slow", 1, [])


def test_the_example_a_trained_network_and_a_stop(tmp_path: Path) -> None:
    settings = {"SR_BACKEND": "onnxruntime", "SR_THREADS": "1"}
    with live_server(tmp_path, **settings) as server:
        wait_ready(server)
        seen: Json = {}
        address = server.url.removeprefix("http://")
        exec(example_of_the_documentation().replace("127.0.0.1:8000", address), seen)
        assert (seen["number"], len(seen["pixels"])) == (9, 256 * 192 * 3)
        query = "width=16&height=16&answer=rgb24&mode=lossless&in_work=4&format=rgb24"
        query += "&model=fast-video"
        with open_stream(server, query) as stream:
            assert hello(stream)["engine"]["model"] == "fast-video"
            grey = np.full((16, 16, 3), 128, np.uint8)
            stream.send(grey.tobytes())
            pixels = np.frombuffer(first_answer(stream)[HEADER_BYTES:], np.uint8)
        assert np.abs(pixels.astype(int) - 128).max() <= 8
        with open_stream(server, query) as stream:
            hello(stream)
            for _ in range(20):
                stream.send(grey.tobytes())
            assert AnswerHeader.unpack(first_answer(stream)).frame == 0
            server.process.terminate()
            answers, texts, code = drain(stream)
        assert (code, texts[-1]["error"]["code"]) == (1001, "stopping")
        assert [header.frame for header, _ in answers] == list(range(1, len(answers) + 1))
        assert server.process.wait(DEADLINE_SECONDS) == 0
