"""Model + target -> plan: the graph is written, keyed, built once and kept.

A plan for frames of one shape is made the first time somebody asks for it. Knows the cache and
the shim; not lanes or frames.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from platform import machine, system
from typing import Protocol

from engine.backends import tensorrt, tensorrt_rtx
from engine.backends.base import LaneSpec
from engine.backends.cuda_api import DeviceFacts
from engine.backends.tensorrt_log import OnProgress
from engine.backends.tensorrt_runtime import TrtRuntime
from engine.backends.tensorrt_shim import BuildOptions, build_plan
from engine.cache import Notify, PlanCache, write_plan
from engine.checked_file import read_checked, write_checked
from engine.contract import Precision
from engine.errors import BackendUnavailable, ContractError, PlanError
from engine.graph import build_graph
from engine.models import Model
from engine.plan import Plan, PlanKey, PlanRecord, Profile, read_plan, sha256_hex


def unheard(fraction: float, phase: str) -> bool:
    """Progress that nobody watches; never cancels."""
    return True


@dataclass(frozen=True, slots=True)
class Target:
    """The GPU that a plan is for."""

    compute_capability: str
    gpu_name: str = ""
    """Empty: every GPU of that compute capability."""
    multiprocessors: int = 0
    memory_gib: int = 0

    @classmethod
    def of(cls, runtime: TrtRuntime, facts: DeviceFacts) -> Target:
        """The GPU at hand, as the runtime's plans know it.

        Raises:
            BackendUnavailable: the runtime builds nothing for it.
        """
        if runtime.target_of(facts.compute_capability):
            return cls(facts.compute_capability)
        return cls(
            facts.compute_capability,
            facts.name,
            facts.multiprocessors,
            round(facts.memory_bytes / (1 << 30)),
        )


@dataclass(slots=True)
class PlanMaker:
    """Builds plans of one model with one runtime for one target."""

    runtime: TrtRuntime
    model: Model
    target: Target
    options: BuildOptions = field(default_factory=BuildOptions)
    timing_file: Path | None = None
    """Timings of earlier builds (full TensorRT only); None keeps none."""
    precision: Precision = "fp16"
    """Of the ONNX: a strongly typed network runs in its types. FP32 is for comparisons."""
    _graphs: dict[tuple[str, str, bool], bytes] = field(default_factory=dict)

    def graph(self, spec: LaneSpec) -> bytes:
        """The ONNX for frames of ``spec``, which is the same for every size."""
        wanted = (spec.format, spec.matrix, spec.full_range)
        if wanted not in self._graphs:
            self._graphs[wanted] = build_graph(
                self.model, spec.format, self.precision, spec.matrix, spec.full_range
            )
        return self._graphs[wanted]

    def options_for(self, spec: LaneSpec) -> BuildOptions:
        """The options with the profile of ``spec``: exactly its size, unless a dynamic profile
        was asked for and admits it."""
        dynamic = self.options.profile.minimum != self.options.profile.maximum
        keep = dynamic and self.options.profile.admits(spec.height, spec.width)
        profile = self.options.profile if keep else Profile.static(spec.height, spec.width)
        return replace(self.options, format=spec.format, precision=self.precision, profile=profile)

    def key(self, spec: LaneSpec) -> PlanKey:
        """Everything that makes this plan another than the next."""
        options, target = self.options_for(spec), self.target
        return PlanKey(
            onnx_sha256=sha256_hex(self.graph(spec)),
            backend=self.runtime.name,
            backend_version=self.runtime.version,
            cuda_version=self.runtime.cuda_version,
            compute_capability=target.compute_capability,
            gpu_name=target.gpu_name,
            multiprocessors=target.multiprocessors,
            memory_gib=target.memory_gib,
            platform=f"{system()}-{machine()}".lower(),
            format=spec.format,
            precision=self.precision,
            profile=options.profile,
            optimization_level=options.optimization_level,
            tiling_level=options.tiling_level,
            max_aux_streams=options.max_aux_streams,
            workspace_bytes=options.workspace_bytes,
            timing_cache=self.timing_file is not None,
        )

    def make(self, spec: LaneSpec, on_progress: OnProgress = unheard) -> Plan:
        """Builds the plan for ``spec``; see :func:`engine.backends.tensorrt_shim.build_plan`."""
        options = self.options_for(spec)
        if self.timing_file is not None:
            options = replace(options, timing_cache=read_checked(self.timing_file) or b"")
        target = self.runtime.target_of(self.target.compute_capability)
        begun = time.monotonic()
        built = build_plan(
            self.runtime.trt,
            self.graph(spec),
            options,
            on_progress,
            lambda config: self.runtime.aim(config, target),
        )
        if built.timing_cache is not None and self.timing_file is not None:
            write_checked(self.timing_file, built.timing_cache)
        record = PlanRecord(
            key=self.key(spec),
            sha256=sha256_hex(built.data),
            size_bytes=len(built.data),
            build_seconds=round(time.monotonic() - begun, 3),
            model=self.model.name,
            trained=self.model.trained,
        )
        return Plan(record, built.data)


class PlanSource(Protocol):
    """Where a backend gets its plans."""

    def plan_for(self, spec: LaneSpec, check: Callable[[Plan], None]) -> Plan:
        """The plan for frames of ``spec``; ``check`` raises PlanError when it does not load."""

    def accept(self, plan: Plan, device: str) -> None:
        """Remembers that ``plan`` passed the gate on ``device``."""

    def reject(self, plan: Plan, reason: str) -> None:
        """Makes sure that ``plan`` is not used again."""


@dataclass(slots=True)
class CachedPlans:
    """Plans from the cache, built when they are missing."""

    maker: PlanMaker
    cache: PlanCache
    on_progress: OnProgress = unheard

    def plan_for(self, spec: LaneSpec, check: Callable[[Plan], None]) -> Plan:
        """See PlanSource."""
        return self.cache.get_or_build(
            self.maker.key(spec), lambda: self.maker.make(spec, self.on_progress), check
        )

    def accept(self, plan: Plan, device: str) -> None:
        """See PlanSource."""
        self.cache.mark_verified(plan, device)

    def reject(self, plan: Plan, reason: str) -> None:
        """See PlanSource."""
        self.cache.reject(plan, reason)


@dataclass(slots=True)
class PlanFile:
    """One plan somebody built before, as a file. It is used as it is or refused, never rebuilt."""

    path: Path
    maker: PlanMaker
    notify: Notify

    def plan_for(self, spec: LaneSpec, check: Callable[[Plan], None]) -> Plan:
        """See PlanSource. Raises PlanError or ContractError when it is for something else."""
        plan = read_plan(self.path)
        check_fits(plan.record.key, self.maker, spec, self.path.name)
        check(plan)
        return plan

    def accept(self, plan: Plan, device: str) -> None:
        """See PlanSource."""
        try:
            write_plan(self.path, Plan(plan.record.as_verified(device), plan.data))
        except PlanError as error:
            self.notify(f"{self.path.name} passed the gate, which cannot be noted: {error}")

    def reject(self, plan: Plan, reason: str) -> None:
        """See PlanSource: the file is somebody's own, so it stays where it is."""
        self.notify(f"{self.path.name} was refused: {reason}")


def check_fits(key: PlanKey, maker: PlanMaker, spec: LaneSpec, name: str) -> None:
    """Raises unless a plan is for this runtime, GPU, model and frame.

    Raises:
        PlanError: another TensorRT, version, GPU or model.
        ContractError: another frame.
    """
    runtime, target = maker.runtime, maker.target
    if (key.backend, key.backend_version) != (runtime.name, runtime.version):
        raise PlanError(
            f"{name} was built with {key.backend} {key.backend_version} and {runtime.name} "
            f"{runtime.version} is installed: build it again with sr-engine build"
        )
    if (key.compute_capability, key.gpu_name) != (target.compute_capability, target.gpu_name):
        raise PlanError(
            f"{name} is for {key.gpu_name or 'GPUs'} of compute capability "
            f"{key.compute_capability} and this GPU has {target.compute_capability}: build it "
            "again with sr-engine build"
        )
    if key.format != spec.format or not key.profile.admits(spec.height, spec.width):
        raise ContractError(
            f"{name} takes {key.format} frames of {key.profile.minimum} to {key.profile.maximum} "
            f"(height, width), got {spec.format} of {spec.height, spec.width}: build one for them"
        )
    if key.onnx_sha256 != sha256_hex(maker.graph(spec)):
        raise PlanError(
            f"{name} was made from another ONNX than {maker.model.name!r} has now (other weights, "
            "matrix or range): build it again"
        )


def timing_path(cache: PlanCache, runtime: TrtRuntime, gpu_name: str) -> Path:
    """Where timings of a GPU are kept: other versions and GPUs have files of their own."""
    return cache.directory / f"timing-{runtime.version}-{slug(gpu_name)}.cache"


def slug(name: str) -> str:
    """``Tesla T4`` -> ``tesla-t4``, for file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def runtime_named(name: str) -> TrtRuntime:
    """``tensorrt`` or ``tensorrt_rtx``, imported now.

    Raises:
        BackendUnavailable: another name, or it is not installed.
    """
    if name == "tensorrt":
        return tensorrt.runtime()
    if name == "tensorrt_rtx":
        return tensorrt_rtx.runtime()
    raise BackendUnavailable(f"{name!r} builds no plans: use tensorrt or tensorrt_rtx")
