"""A backend that any test can break, and small models whose every weight matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.backends.nearest import enlarge
from engine.closing import Closing
from engine.config import NetworkConfig
from engine.errors import EngineFault, OutOfMemory
from engine.frames import Frame
from engine.models import Model, expected_shapes, parse_model, serialize


@dataclass
class FakeLane:
    """Enlarges by repetition, into memory that it uses again; insists on the protocol."""

    backend: FakeBackend
    closed: bool = False
    _frame: Frame | None = None
    _memory: Frame | None = None

    def start(self, frame: Frame) -> None:
        assert not self.closed
        assert self._frame is None, "start twice without finish"
        self.backend.begin(frame)
        self._frame = frame

    def finish(self) -> Frame:
        assert not self.closed
        assert self._frame is not None, "finish without start"
        frame, self._frame = self._frame, None
        self.backend.end(frame)
        made = self.backend.make(frame)
        if isinstance(made, np.ndarray) and isinstance(self._memory, np.ndarray):
            self._memory[:] = made
        else:
            self._memory = made
        return self._memory

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeBackend(Closing):
    """Counts what is in flight; fails at the frames it is told to."""

    make: Callable[[Frame], Frame] = enlarge
    fail_start: int | None = None
    fail_finish: int | None = None
    halo: int = 3
    max_pixels: int = 1024 * 1024
    memory_for_pixels: int | None = None
    started: int = 0
    finished: int = 0
    most_in_flight: int = 0
    lanes: list[FakeLane] = field(default_factory=list)
    closed: int = 0

    @property
    def info(self) -> BackendInfo:
        return BackendInfo("fake", "1", "test", halo=self.halo, max_pixels=self.max_pixels)

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        if self.memory_for_pixels and spec.height * spec.width > self.memory_for_pixels:
            raise OutOfMemory(f"no memory for {spec.width}x{spec.height}")
        lanes = [FakeLane(self) for _ in range(count)]
        self.lanes += lanes
        return list(lanes)

    def begin(self, frame: Frame) -> None:
        if self.started == self.fail_start:
            raise EngineFault("start failed")
        self.started += 1
        self.most_in_flight = max(self.most_in_flight, self.started - self.finished)

    def end(self, frame: Frame) -> None:
        if self.finished == self.fail_finish:
            raise EngineFault("finish failed")
        self.finished += 1

    @property
    def open_count(self) -> int:
        return sum(not lane.closed for lane in self.lanes)

    def close(self) -> None:
        self.closed += 1


def noisy_model(seed: int = 0, scale: float = 0.7, **config: int | str) -> Model:
    """Random weights and biases everywhere: nothing that a wrong graph could hide behind."""
    network = NetworkConfig(**{"width": 6, "body": 3, **config})  # type: ignore[arg-type]
    generator = np.random.default_rng(seed)
    weights = {
        key: (generator.normal(0, scale * (0.25 if len(shape) == 4 else 0.1), shape)).astype(
            np.float32
        )
        for key, shape in expected_shapes(network).items()
    }
    weights["conv_out.bias"] += 0.4  # mid-grey, so that few results are clipped
    metadata = {"config": json.dumps(network.to_dict()), "trained": "true", "name": "noisy"}
    return parse_model(serialize(weights, metadata), "noisy")
