"""A TensorRT of either kind as a backend: plans from a source, lanes on one GPU thread.

A plan that has not yet passed the gate on this GPU and driver passes it before its lanes are
given away. Contexts of the shapes used last stay loaded; their lanes come and go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.backends.cuda_device_lane import CudaDeviceLane, CudaMemory
from engine.backends.cuda_lane import CudaLane, SlotLane, Streams
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.backends.tensorrt_runtime import TrtRuntime
from engine.backends.tensorrt_shim import LoadedPlan
from engine.build import PlanSource
from engine.closing import Closing
from engine.device import DeviceLane, DeviceMemory, MemoryUse
from engine.errors import EngineFault, PlanError
from engine.models import Model
from engine.plan import Plan

KEPT_SHAPES = 4
"""Contexts kept loaded: a job mostly needs one shape, and strips of a picture a second."""

Gate = Callable[["TensorRtBackend", LaneSpec], str]
"""Compares a backend with FP32 on frames of a shape: "" when it passes, else what was wrong."""


LaneT = TypeVar("LaneT", bound=SlotLane)


@dataclass(slots=True)
class _Running:
    plan: Plan
    loaded: LoadedPlan
    lanes: list[SlotLane]


class TensorRtBackend(Closing):
    """One model on one GPU.

    Args:
        thread: the GPU's thread; closed together with the backend.
        runtime: which TensorRT.
        model: what the plans hold.
        plans: where they come from.
        gate: asked before the first lane of a plan that is not verified on this GPU. None only
            for who judges the plan himself: it then stays unverified.
        reason: why this backend was chosen, for ``info.detail["reason"]``.
    """

    def __init__(
        self,
        thread: GpuThread,
        runtime: TrtRuntime,
        model: Model,
        plans: PlanSource,
        gate: Gate | None,
        reason: str = "asked for by name",
    ) -> None:
        self._thread, self._runtime, self._model = thread, runtime, model
        self._plans, self._gate, self._reason = plans, gate, reason
        self._streams = thread.call(Streams.open)
        self._running: OrderedDict[LaneSpec, _Running] = OrderedDict()
        self._judging: LaneSpec | None = None
        self._newest: Plan | None = None
        self._closed = False

    @property
    def info(self) -> BackendInfo:
        """The runtime, the GPU, and the plan loaded last."""
        plan, facts = self._newest, self._thread.facts
        return BackendInfo(
            name=self._runtime.name,
            version=self._runtime.version,
            device=facts.name,
            precision=plan.record.key.precision if plan else "fp16",
            model=self._model.name,
            onnx_sha256=plan.record.key.onnx_sha256 if plan else "",
            plan_sha256=plan.record.sha256 if plan else "",
            halo=self._model.config.halo,
            detail={
                "reason": self._reason,
                "driver": facts.driver_version,
                "compute_capability": facts.compute_capability,
                "async_engines": str(facts.async_engines),
                "verified": str(bool(plan and self._is_verified(plan))).lower(),
            },
        )

    def free_bytes(self) -> int:
        """Device memory that is free at this moment. Raises EngineFault when the GPU failed."""
        return self._thread.call(lambda device: device.free_bytes())

    def memory_use(self) -> MemoryUse:
        """How full the GPU is, by all processes. Raises EngineFault when it failed."""
        total = self._thread.facts.memory_bytes
        return MemoryUse(total - self.free_bytes(), total)

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes for frames of ``spec``. The first of a shape may build a plan and run the gate.

        Raises:
            OutOfMemory: they do not fit; none stays open.
            PlanError: no plan for this shape can be built, trusted or loaded.
            EngineFault: the GPU failed.
        """
        return list(self._open(spec, count, CudaLane))

    @property
    def memory(self) -> DeviceMemory:
        """Where frames that stay on the GPU are."""
        return CudaMemory(self._thread)

    def open_device_lanes(self, spec: LaneSpec, count: int) -> list[DeviceLane]:
        """Like ``open_lanes``, for nv12 frames that stay on the GPU.

        Raises:
            ContractError: frames of this shape cannot stay there.
            OutOfMemory, PlanError, EngineFault: as ``open_lanes``.
        """
        return list(self._open(spec, count, CudaDeviceLane))

    def _open(self, spec: LaneSpec, count: int, kind: Callable[..., LaneT]) -> list[LaneT]:
        if self._closed:
            raise EngineFault("the GPU backend is closed: open it again")
        running = self._running.get(spec) or self._load(spec)
        self._running.move_to_end(spec)
        lanes: list[LaneT] = []
        try:
            for _ in range(count):
                lanes.append(kind(self._thread, self._streams, running.loaded, spec))
        except BaseException:
            for lane in lanes:
                lane.close()
            raise
        running.lanes = [*(lane for lane in running.lanes if not lane.closed), *lanes]
        return lanes

    def close(self) -> None:
        """Closes every lane, frees plans and streams and ends the GPU thread."""
        if self._closed:
            return
        self._closed = True
        for spec in list(self._running):
            self._unload(spec)
        with suppress(EngineFault):  # a lost GPU has nothing left to free
            self._thread.call(self._drop_streams)
        self._thread.close()

    def _drop_streams(self, device: AnyDevice) -> None:
        """On the GPU's thread, where PyCUDA's objects must end."""
        self._streams = Streams(None, None, None)

    def _load(self, spec: LaneSpec) -> _Running:
        made: dict[str, LoadedPlan] = {}

        def check(plan: Plan) -> None:
            size = (spec.height, spec.width)
            made["loaded"] = self._thread.call(
                lambda device: self._runtime.load(plan.data, spec.format, size)
            )

        plan = self._plans.plan_for(spec, check)
        running = self._running[spec] = _Running(plan, made["loaded"], [])
        self._newest = plan
        if self._gate and self._judging is None and not self._is_verified(plan):
            self._judge(self._gate, spec, running)
        self._make_room()
        return running

    def _judge(self, gate: Gate, spec: LaneSpec, running: _Running) -> None:
        self._judging = spec
        try:
            wrong = gate(self, spec)
        except BaseException:
            self._unload(spec)
            raise
        finally:
            self._judging = None
        if wrong:
            self._unload(spec)
            self._plans.reject(running.plan, wrong)
            raise PlanError(
                f"the plan computes something else than the weights ({wrong}): it was set aside, "
                "use --backend onnxruntime"
            )
        device = self._thread.facts.identity
        self._plans.accept(running.plan, device)
        running.plan = Plan(running.plan.record.as_verified(device), running.plan.data)
        self._newest = running.plan

    def _is_verified(self, plan: Plan) -> bool:
        record = plan.record
        return record.verified and record.verified_on == self._thread.facts.identity

    def _make_room(self) -> None:
        idle = [
            spec
            for spec, running in self._running.items()
            if all(lane.closed for lane in running.lanes)
        ]
        # The one just loaded has no lanes yet and is last in line.
        for spec in idle[: max(0, len(self._running) - KEPT_SHAPES)]:
            if spec != next(reversed(self._running)):
                self._unload(spec)

    def _unload(self, spec: LaneSpec) -> None:
        """Frees a context on the GPU's own thread."""
        running = self._running.pop(spec)
        for lane in running.lanes:
            lane.close()
        with suppress(EngineFault):
            self._thread.call(lambda device: running.loaded.release())
