"""Repetitions in a video: one result for many frames, but never in silence for long."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from engine.upscaler import Upscaler
from server.flow import LONGEST_STILL, FrameFlow, Upscaled
from server.media.colour import Colour
from server.media.decode import DecodedFrame, Decoder
from server.media.errors import Cancelled
from tests.server.media.clips import pattern

PICTURE = pattern(8, 6, 0)


class StillDecoder:
    """The same picture over and over."""

    def __init__(self, frames: int) -> None:
        self.decoded = 0
        self._frames = frames
        colour = Colour().resolved(6)
        self.info = SimpleNamespace(height=6, width=8, frame_format="rgb24", colour=colour)

    def __iter__(self) -> Iterator[DecodedFrame]:
        for number in range(self._frames):
            self.decoded += 1
            yield DecodedFrame(PICTURE.copy(), number, 1, key=number == 0, corrupt=False)


def test_a_long_still_comes_out_while_it_is_read(upscaler: Upscaler) -> None:
    count = 10 * LONGEST_STILL + 7
    decoder = StillDecoder(count)
    flow = FrameFlow(cast(Decoder, decoder), upscaler, lambda: None)
    out: list[Upscaled] = []
    furthest_ahead = 0
    for upscaled in flow:
        out.append(upscaled)
        furthest_ahead = max(furthest_ahead, decoder.decoded - len(out))
        if upscaled.frame is not None:
            np.testing.assert_array_equal(upscaled.frame[::4, ::4], PICTURE)
    assert [upscaled.pts for upscaled in out] == flow.ledger == list(range(count))
    fresh = [upscaled.pts for upscaled in out if upscaled.frame is not None]
    assert fresh == list(range(0, count, LONGEST_STILL))
    assert flow.reused == count - len(fresh)
    assert furthest_ahead <= 3 * LONGEST_STILL


def test_a_still_is_cancelled_at_its_next_frame(upscaler: Upscaler) -> None:
    decoder = StillDecoder(10_000)

    def check() -> None:
        if decoder.decoded >= LONGEST_STILL // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(FrameFlow(cast(Decoder, decoder), upscaler, check))
    assert decoder.decoded == LONGEST_STILL // 2
