"""Frames through lanes whose results stay on the device: in order, several in flight.

The counterpart of ``engine.upscaler.Upscaler.stream`` for memory of a GPU: nothing is copied to
the host but the rows that the guard looks at, and nothing is cut into strips.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator

from engine.device import AnyFrame, DeviceLane, DeviceNv12
from engine.guard import check_band


def stream_on_device(
    lanes: list[DeviceLane], frames: Iterable[AnyFrame], *, guard: bool = True
) -> Generator[DeviceNv12]:
    """Runs ``frames`` through ``lanes``, which are closed however the iteration ends.

    Args:
        lanes: each holds one frame in flight.
        frames: of the lanes' shape, on the host or on the device; kept until their result is out.
        guard: compare some rows of every result with its input and refuse a wrong one.

    Yields:
        results in order, each valid until the next is asked for.

    Raises:
        ContractError, EngineFault: at the frame it belongs to, after all earlier results.
        Exception: whatever ``frames`` raises, likewise.
    """
    try:
        source = iter(frames)
        free, busy = deque(lanes), deque[tuple[DeviceLane, AnyFrame]]()
        failure = _fill(source, free, busy)
        while busy:
            lane, _ = busy.popleft()
            result = lane.finish()
            if guard:
                check_band(*lane.band())
            yield result
            free.append(lane)
            failure = failure or _fill(source, free, busy)
        if failure is not None and not isinstance(failure, StopIteration):
            raise failure
    finally:
        for lane in lanes:
            lane.close()


def _fill(
    source: Iterator[AnyFrame],
    free: deque[DeviceLane],
    busy: deque[tuple[DeviceLane, AnyFrame]],
) -> Exception | None:
    """Starts a frame on every free lane; returns what ended the source, if anything did."""
    while free:
        try:
            frame = next(source)
            free[0].start(frame)
        except Exception as failure:  # kept until the results of earlier frames are out
            return failure
        busy.append((free.popleft(), frame))
    return None
