"""Puts a GPU backend together: thread, runtime, plans, gate. The GPU's part of ``selection``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.backends import tensorrt, tensorrt_rtx
from engine.backends.base import LaneSpec
from engine.backends.cuda_api import DeviceFacts
from engine.backends.cuda_driver import open_device
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.backends.tensorrt_backend import TensorRtBackend
from engine.backends.tensorrt_log import OnProgress
from engine.backends.tensorrt_runtime import RuntimeName, TrtRuntime
from engine.build import CachedPlans, PlanFile, PlanMaker, Target, slug, timing_path, unheard
from engine.cache import Notify, PlanCache
from engine.contract import Precision
from engine.errors import BackendUnavailable
from engine.models import Model, load_model
from engine.plan import read_plan
from engine.proofs import Machine, choose_model
from engine.verify import run_gate

OpenDevice = Callable[[], AnyDevice]


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How to open a GPU backend; the defaults suit everyone."""

    cache_dir: Path | None = None
    """Where plans are kept; None is the user's cache directory."""
    plan_file: Path | None = None
    """A plan to use as it is instead of the cache."""
    on_progress: OnProgress = unheard
    """Told (fraction, phase) while a plan is built; returning False cancels."""
    notify: Notify = lambda message: None
    """Told what a person should know."""
    reason: str = "asked for by name"
    threads: int | None = None
    """Cores that the gate's FP32 reference uses; None is all."""
    precision: Precision = "fp16"
    """Of the plans; FP32 is for comparisons."""
    gated: bool = True
    """False only for who runs the gate himself and wants its report of a bad plan too."""


def open_gpu_backend(
    name: RuntimeName,
    model: Model | None,
    options: GpuOptions | None = None,
    open_gpu: OpenDevice = open_device,
) -> TensorRtBackend:
    """Opens TensorRT on the first visible GPU. Never falls back to anything.

    Args:
        name: which TensorRT.
        model: what to run; None is the widest that its proof allows on this GPU, see
            :func:`engine.proofs.choose_model`.
        options: how to open it.
        open_gpu: opens the device, on the GPU's thread.

    Raises:
        BackendUnavailable: no such library, driver or GPU, or one that the library does not
            build for.
        PlanError: the plan cache cannot be used.
    """
    # The library before the GPU: that it is missing is the more useful message.
    runtime = tensorrt.runtime() if name == "tensorrt" else tensorrt_rtx.runtime()
    thread = GpuThread(open_gpu)
    try:
        return _on_thread(thread, runtime, model, options or GpuOptions())
    except BaseException:
        thread.close()
        raise


def open_plan(
    path: Path, options: GpuOptions | None = None, open_gpu: OpenDevice = open_device
) -> tuple[TensorRtBackend, Model, LaneSpec]:
    """Opens a plan file on the first visible GPU, with the model and the frames it is for.

    The matrix and range of nv12 are the defaults: the plan's ONNX is checked against them.

    Raises:
        PlanError: the plan cannot be trusted.
        BackendUnavailable: see :func:`open_gpu_backend`.
    """
    record = read_plan(path).record
    model = load_model(record.model, allow_untrained=True)
    name: RuntimeName = "tensorrt" if record.key.backend == "tensorrt" else "tensorrt_rtx"
    backend = open_gpu_backend(
        name, model, replace(options or GpuOptions(), plan_file=path), open_gpu
    )
    height, width = record.key.profile.optimum
    return (
        backend,
        model,
        LaneSpec(height, width, "nv12" if record.key.format == "nv12" else "rgb24"),
    )


def check_driver(runtime: TrtRuntime, facts: DeviceFacts) -> None:
    """Raises BackendUnavailable when the driver is older than the CUDA of the runtime.

    Within a major version every driver runs every runtime (minor version compatibility).
    """
    needed, spoken = runtime.cuda_version, facts.driver_version.partition(".")[0]
    if needed and int(spoken) < int(needed):
        raise BackendUnavailable(
            f"{runtime.name} {runtime.version} was made for CUDA {needed} and the driver speaks "
            f"{facts.driver_version}: update the driver, or install the cu{spoken} package"
        )


def _on_thread(
    thread: GpuThread, runtime: TrtRuntime, model: Model | None, options: GpuOptions
) -> TensorRtBackend:
    facts, reason = thread.facts, options.reason
    check_driver(runtime, facts)
    cache = PlanCache.open(options.cache_dir, options.notify)
    if model is None:
        here = Machine(facts.name, facts.driver_version, runtime.name, runtime.version)
        choice = choose_model(cache.directory, here)
        model, reason = choice.model, f"{reason}; model auto: {choice.reason}"
    return _with_model(thread, runtime, model, replace(options, reason=reason), cache)


def _with_model(
    thread: GpuThread, runtime: TrtRuntime, model: Model, options: GpuOptions, cache: PlanCache
) -> TensorRtBackend:
    facts = thread.facts
    if runtime.name == "tensorrt_rtx":
        kernels = cache.directory / f"rtx-{runtime.version}-{slug(facts.identity)}.cache"
        runtime = tensorrt_rtx.runtime(kernels)
    maker = PlanMaker(runtime, model, Target.of(runtime, facts), precision=options.precision)
    if runtime.name == "tensorrt":
        maker.timing_file = timing_path(cache, runtime, facts.name)
    plans = (
        CachedPlans(maker, cache, options.on_progress)
        if options.plan_file is None
        else PlanFile(options.plan_file, maker, options.notify)
    )

    def gate(backend: TensorRtBackend, spec: LaneSpec) -> str:
        report = run_gate(backend, model, spec, threads=options.threads)
        if report.passed:
            return ""
        worst = report.worst
        return (
            f"{worst.name}: PSNR {worst.psnr_db:.1f} dB, maximum {worst.max_difference}, "
            f"mean {worst.mean_difference:.2f} grey levels"
        )

    checked = gate if options.gated else None
    return TensorRtBackend(thread, runtime, model, plans, checked, options.reason)
