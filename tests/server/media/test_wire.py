from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.wire import (
    Receiver,
    Ring,
    WireClosed,
    WireTimeout,
    copy_rows,
    plane_shapes,
    send,
    slot_bytes,
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_messages_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    messages = [{"type": "frame", "n": n, "text": "x" * n} for n in (0, 5000, 1)]
    for message in messages:
        send(writing, message)
    receiver = Receiver(reading)
    assert [receiver.receive(1) for _ in messages] == messages


def test_silence_nonsense_and_the_end_are_three_different_things(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    receiver = Receiver(reading)
    with pytest.raises(WireTimeout):
        receiver.receive(0.0)
    os.write(writing, b"not json\n")
    with pytest.raises(WireClosed, match="JSON"):
        receiver.receive(1)
    os.write(writing, b"[1]\n")
    with pytest.raises(WireClosed, match="object"):
        receiver.receive(1)
    os.close(writing)
    with pytest.raises(WireClosed, match="end"):
        receiver.receive(1)


def test_a_check_can_end_the_waiting(pipe: tuple[int, int]) -> None:
    def stop() -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        Receiver(pipe[0]).receive(None, stop)


def test_a_slot_outside_the_ring_is_refused() -> None:
    descriptor = os.memfd_create("ring")
    os.ftruncate(descriptor, 64)
    ring = Ring(descriptor, 2, 32)
    with pytest.raises(WireClosed):
        ring.slot(2)
    view = ring.slot(1)
    view[:] = bytes(range(32))
    assert bytes(ring.slot(1)) == bytes(range(32))
    view.release()
    os.close(descriptor)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_rows_keep_their_bytes_whatever_the_padding(rows: int, length: int, pad: int) -> None:
    source = bytes((row * 16 + column) % 256 for row in range(rows) for column in range(length))
    padded = bytearray(rows * (length + pad))
    back = bytearray(rows * length)
    copy_rows(memoryview(source), memoryview(padded), rows, (length, length + pad), length)
    copy_rows(memoryview(padded), memoryview(back), rows, (length + pad, length), length)
    assert bytes(back) == source


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["rgb24", "nv12"]))
def test_the_planes_fill_a_slot_exactly(height: int, width: int, form: str) -> None:
    planes = plane_shapes(form, height, width)
    assert sum(rows * length for rows, length in planes) == slot_bytes(form, height, width)
