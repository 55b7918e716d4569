"""The command line of ``bench/fps.py``: options in, measurements, tables and the proof out."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.file_mode import FileRun, clip_for, run_file
from bench.measure import DISTINCT, Expected, Hasher, Run, expect, run_engine, run_pipeline
from bench.measure import worst_psnr_db as compare
from bench.proof import MIN_PSNR_DB, TARGET_FPS, Claim, Proof, percentiles, verdict
from bench.roofline import cpu_machine, gpu_machine, reached, t4_prediction, work_of
from engine.backends.base import Backend, LaneSpec
from engine.backends.cuda_driver import open_device
from engine.backends.cuda_thread import AnyDevice
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.backends.tensorrt_runtime import RuntimeName
from engine.cache import PlanCache
from engine.command_line import parse_command_line
from engine.commands import parse_size
from engine.contract import FrameFormat
from engine.errors import EngineError, PlanError
from engine.gpu import GpuOptions, open_gpu_backend, open_plan
from engine.models import Model
from engine.proofs import keep_proof
from engine.selection import BackendName, model_of, open_backend
from server.media.errors import MediaError

ENGINE_FRAMES = 100
"""At most so many in engine mode beside a pipeline run: the spread is small there."""


@dataclass(frozen=True, slots=True)
class Options:
    """Measure frames per second, prove that the frames are right, print both as JSON."""

    engine: Path | None = None
    """A plan made by sr-engine build; it fixes backend, model, size and format."""
    backend: BackendName = "onnxruntime"
    """Which backend, when no plan is given."""
    model: str = "auto"
    """A model name or the path of a weights file; untrained ones are measured and marked."""
    size: str = "1024"
    """Side of the input frames in pixels, or WIDTHxHEIGHT."""
    frames: int = 600
    """Timed frames."""
    format: FrameFormat = "rgb24"
    """Frame format."""
    mode: Literal["engine", "pipeline", "file"] = "pipeline"
    """engine: the network alone. pipeline: host frame to host frame. file: a clip to a clip."""
    require: float | None = None
    """Frames per second that the verdict asks for (60 when not given); exit 1 when it is FAIL."""
    lanes: int = 0
    """Frames in flight; 0: 3 on a GPU and 2 on a CPU."""
    threads: int | None = None
    """Cores of a CPU backend; all of them when not given."""
    clip: Path | None = None
    """Clip of file mode; the bundled one of this size when not given."""
    codec: str = "libx264"
    """Encoder of file mode."""
    save: Path | None = None
    """Also write the proof with all details (roofline, precisions, clocks) to this file."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured."""

    backend: Backend
    model: Model
    spec: LaneSpec

    @property
    def on_gpu(self) -> bool:
        """Whether stages come from CUDA events."""
        return self.backend.info.name in ("tensorrt", "tensorrt_rtx")


@dataclass(slots=True)
class Found:
    """Everything measured, before it becomes a proof."""

    engine: Run | None = None
    pipeline: Run | None = None
    single: Run | None = None
    file: FileRun | None = None
    details: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when ``--require`` was given and the verdict is FAIL; 2 for bad input."""
    options = parse_command_line(
        "bench/fps.py",
        arguments,
        lambda words: tyro.cli(Options, prog="bench/fps.py", args=words),
    )
    words = ["bench/fps.py", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        required = TARGET_FPS if options.require is None else options.require
        if options.frames < 1 or options.lanes < 0 or not 0 < required < math.inf:
            raise ValueError("--frames and --require must be above 0, --lanes not below")
        with ExitStack() as stack:
            subject = open_subject(options)
            stack.callback(subject.backend.close)
            hasher = Hasher()
            stack.callback(hasher.close)
            proof, details = measure(options, subject, hasher, "python " + shlex.join(words))
    except (EngineError, MediaError, OSError, ValueError) as error:
        print(f"bench/fps.py: {error}", file=sys.stderr)
        return 2
    console = Console(stderr=True, highlight=False)
    if reason := subject.backend.info.detail.get("reason"):
        say(f"{proof.backend} with {proof.model}: {reason}")
    for table in tables(proof, details):
        console.print(table)
    if options.save:
        saved = {"proof": json.loads(proof.to_line()), "details": details}
        options.save.write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")
    if subject.on_gpu and options.mode == "pipeline":
        keep(json.loads(proof.to_line()))
    print(proof.to_line())
    return int(options.require is not None and proof.verdict.startswith("FAIL"))


def open_subject(options: Options) -> Subject:
    """The backend and what it will be given.

    Raises:
        EngineError: it cannot run here, or the plan is for something else.
    """
    if options.engine is not None:
        return Subject(*open_plan(options.engine, GpuOptions(notify=say, threads=options.threads)))
    width, height = parse_size(
        options.size if "x" in options.size else f"{options.size}x{options.size}"
    )
    backend = open_backend(
        options.backend, options.model, threads=options.threads, notify=say, allow_untrained=True
    )
    model = model_of(backend.info, options.model)
    return Subject(backend, model, LaneSpec(height, width, options.format))


def keep(proof: dict[str, Any]) -> None:
    """Leaves the proof in the plan cache, where ``--model auto`` looks for it."""
    try:
        say(f"the proof is kept as {keep_proof(PlanCache.open(notify=say).directory, proof)}")
    except PlanError as error:
        say(str(error))


def say(message: str) -> None:
    """A sentence for the person, on stderr."""
    print(f"bench/fps.py: {message}", file=sys.stderr)


def measure(
    options: Options, subject: Subject, hasher: Hasher, command: str
) -> tuple[Proof, dict[str, Any]]:
    """Runs what the mode asks for and sums it up."""
    backend, model, spec = subject.backend, subject.model, subject.spec
    lanes = options.lanes or (3 if subject.on_gpu else 2)
    found = Found()
    found.details["gpu_state_before"] = machine.gpu_state()
    found.details["load_average_before"] = machine.load_average()
    expected = expect(backend, spec, hasher)
    if options.mode == "file":
        clip = options.clip or clip_for(spec.height, spec.width)
        found.file = run_file(backend, clip, lanes, options.codec, spec)
        found.details["file_stages"] = found.file.stages
        found.details["frame_memory"] = found.file.frame_memory
    else:
        alone = options.frames if options.mode == "engine" else min(options.frames, ENGINE_FRAMES)
        found.engine = run_engine(backend, spec, expected.frames, alone)
    if options.mode == "pipeline":
        few = max(4, options.frames // 4)
        found.single = run_pipeline(backend, spec, expected, 1, few, hasher)
        found.pipeline = run_pipeline(backend, spec, expected, lanes, options.frames, hasher)
        found.details["buffering"] = buffering(found.single, found.pipeline, lanes)
    psnr_db = compare(model, spec, expected) if backend.info.name != "nearest" else math.inf
    found.details |= {
        "load_average_after": machine.load_average(),
        "gpu_state_after": machine.gpu_state(),
        "lanes": lanes,
        "distinct_inputs": len(expected.frames),
        "precisions": precisions(subject, expected, found.engine),
        "roofline": roofline(subject, found),
    }
    return prove(options, subject, found, psnr_db, command), found.details


def buffering(single: Run, double: Run, lanes: int) -> dict[str, float]:
    """One frame in flight against several, in the same run."""
    stages = ("copy_in", "compute", "copy_out")
    busy = sum(_mean(double.stages_ms[stage]) for stage in stages if stage in double.stages_ms)
    compared = {
        "lanes": lanes,
        "fps_single_buffered": round(single.fps, 3),
        "fps_buffered": round(double.fps, 3),
        "speedup": round(double.fps / single.fps, 3),
    }
    if busy:
        # Above 1: copies ran beside the network.
        compared["overlap_factor"] = round(busy / _mean(double.stages_ms["interval"]), 3)
    return compared


def precisions(subject: Subject, expected: Expected, engine: Run | None) -> dict[str, Any]:
    """FP32 against FP16 of the same network, where the backend can run both."""
    info = subject.backend.info
    if engine is not None and info.name in ("tensorrt", "tensorrt_rtx"):
        return on_tensorrt(info.name, subject, expected, engine)
    if info.name != "onnxruntime" or engine is None:
        return {"kind": f"{info.name} runs {info.precision} only"}
    with OnnxRuntimeBackend(subject.model, precision="fp16") as half:
        run_engine(half, subject.spec, expected.frames, 1)
        run = run_engine(half, subject.spec, expected.frames, 3)
    return {
        "kind": "onnxruntime, one frame in flight; its FP16 on a CPU exists to check the graph",
        "fp32_fps": round(engine.fps, 3),
        "fp16_fps": round(run.fps, 3),
    }


def on_tensorrt(
    name: RuntimeName,
    subject: Subject,
    expected: Expected,
    engine: Run,
    open_gpu: Callable[[], AnyDevice] = open_device,
) -> dict[str, Any]:
    """An FP32 plan of the same network beside the FP16 one; why not, where it does not run."""
    options = GpuOptions(precision="fp32", gated=False, notify=say)
    try:
        with open_gpu_backend(name, subject.model, options, open_gpu) as single:
            run_engine(single, subject.spec, expected.frames, 3)
            run = run_engine(single, subject.spec, expected.frames, ENGINE_FRAMES)
    except EngineError as error:
        return {"kind": f"{name}: FP32 did not run ({error})"}
    return {
        "kind": f"{name}, one frame in flight; FP32 may take TF32 matrix units where there are any",
        "fp32_fps": round(run.fps, 3),
        "fp16_fps": round(engine.fps, 3),
    }


def roofline(subject: Subject, found: Found) -> dict[str, Any]:
    """The model's work, the machine's rates, the fraction reached, and a T4's prediction."""
    spec, on_gpu = subject.spec, subject.on_gpu
    work = work_of(subject.model, spec.height, spec.width, spec.format, 2 if on_gpu else 4)
    half = work_of(subject.model, spec.height, spec.width, spec.format, 2)
    rates = gpu_machine() if on_gpu else cpu_machine()
    facts: dict[str, Any] = {
        "gflop_per_frame": round(work.flops / 1e9, 3),
        "activation_mb_per_frame": round(work.activation_bytes / 1e6, 3),
        "bytes_in": work.bytes_in,
        "bytes_out": work.bytes_out,
        "matrix_gflops": rates.flops and round(rates.flops / 1e9, 1),
        "copy_gbytes": rates.copy_bytes and round(rates.copy_bytes / 1e9, 2),
        "measured_with": rates.how,
        "t4": t4_prediction(half),
    }
    if found.engine is not None:
        facts["reached"] = reached(work, rates, found.engine.fps)
    if found.pipeline is not None and "copy_out" in found.pipeline.stages_ms:
        for stage, count in (("copy_in", work.bytes_in), ("copy_out", work.bytes_out)):
            seconds = percentiles(found.pipeline.stages_ms[stage])["p50_ms"] / 1000
            facts[f"{stage}_gbytes"] = round(count / seconds / 1e9, 2) if seconds else None
    return facts


def prove(options: Options, subject: Subject, found: Found, psnr_db: float, command: str) -> Proof:
    """The proof of a run."""
    info, spec = subject.backend.info, subject.spec
    wrong = wrong_output(found, psnr_db, info.name)
    timed = found.pipeline or found.engine
    stages = timed.stages_ms if timed else {}
    main_fps = fps_of(found)
    frames = found.file.frames_out if found.file else (timed.frames if timed else 0)
    dropped = found.file.frames_in - found.file.frames_out if found.file else 0
    summary = {name: percentiles(values) for name, values in stages.items()}
    if found.file:
        summary = {"frame": percentiles([1000 / found.file.fps])}
    interval = summary.get("interval", next(iter(summary.values())))["p99_ms"]
    claim = Claim(
        required_fps=options.require or TARGET_FPS,
        fps=main_fps,
        size=(spec.height, spec.width),
        frames=frames,
        dropped=dropped,
        interval_p99_ms=interval,
        wrong=wrong,
    )
    return Proof(
        device=info.device,
        driver=info.detail.get("driver", ""),
        versions=machine.versions(info.version),
        backend=info.name,
        model=subject.model.name,
        trained=subject.model.trained,
        verified=info.detail.get("verified", str(not wrong).lower()) == "true",
        onnx_sha256=info.onnx_sha256,
        plan_sha256=info.plan_sha256,
        size=f"{spec.width}x{spec.height}",
        format=spec.format,
        mode=options.mode,
        frames=frames,
        dropped=dropped,
        stages=summary,
        fps_engine=_rounded(found.engine),
        fps_pipeline=_rounded(found.pipeline),
        fps_file=round(found.file.fps, 3) if found.file else None,
        psnr_db=round(psnr_db, 2) if math.isfinite(psnr_db) else None,
        psnr_frames=0 if info.name == "nearest" else DISTINCT,
        verdict=verdict(claim),
        bottleneck=bottleneck(found, main_fps),
        git_commit=machine.git_commit(),
        command=command,
    )


def wrong_output(found: Found, psnr_db: float, backend: str) -> str:
    """What was wrong with the outputs; empty when nothing was."""
    changed = [n for run in (found.single, found.pipeline) if run for n in run.wrong]
    if changed:
        return f"{len(changed)} outputs were not those of their input (first: frame {changed[0]})"
    if backend == "nearest":
        return "nearest is no network and has nothing to prove"
    if psnr_db < MIN_PSNR_DB:
        return f"PSNR {psnr_db:.1f} dB against FP32, {MIN_PSNR_DB:g} are needed"
    return ""


def fps_of(found: Found) -> float:
    """The figure that the mode is about."""
    if found.file:
        return found.file.fps
    run = found.pipeline or found.engine
    return run.fps if run else 0.0


def bottleneck(found: Found, fps: float) -> str:
    """The stage that decides the speed."""
    if found.file:
        slowest = max(found.file.stages.items(), key=lambda item: item[1]["p50_ms"], default=None)
        return slowest[0] if slowest else "unknown"
    run = found.pipeline or found.engine
    if run is None:
        return "unknown"
    medians = {name: percentiles(values)["p50_ms"] for name, values in run.stages_ms.items()}
    gpu = {name: medians[name] for name in ("copy_in", "compute", "copy_out") if name in medians}
    if gpu:
        name = max(gpu, key=gpu.__getitem__)
        # The GPU was idle for a good part of the time: Python, hashing or memory on the host.
        return name if gpu[name] > 0.8 * 1000 / fps else "host"
    return "hash" if medians.get("hash", 0.0) > 0.5 * 1000 / fps else "compute"


def tables(proof: Proof, details: dict[str, Any]) -> list[Table]:
    """What a person reads."""
    title = f"{proof.backend} on {proof.device}, {proof.model}, {proof.format} {proof.size}"
    stages = Table("stage", "p50 ms", "p95 ms", "p99 ms", title=title)
    for name, values in proof.stages.items():
        stages.add_row(name, *(f"{values[p]:.2f}" for p in ("p50_ms", "p95_ms", "p99_ms")))
    facts = Table("", "", show_header=False)
    for name in ("fps_engine", "fps_pipeline", "fps_file", "psnr_db", "bottleneck", "verdict"):
        value = getattr(proof, name)
        facts.add_row(name, "-" if value is None else str(value))
    for group in ("buffering", "precisions", "roofline"):
        for name, value in details.get(group, {}).items():
            facts.add_row(f"{group}: {name}", str(value))
    return [stages, facts]


def _rounded(run: Run | None) -> float | None:
    return round(run.fps, 3) if run else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
