"""What ``sr-engine build`` and ``sr-engine cache`` do; their fields are the command line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from engine.backends.base import LaneSpec
from engine.backends.cuda_driver import open_device
from engine.backends.cuda_thread import GpuThread
from engine.backends.tensorrt_log import OnProgress
from engine.backends.tensorrt_runtime import RuntimeName, TrtRuntime
from engine.backends.tensorrt_shim import BuildCancelled, BuildOptions
from engine.build import CachedPlans, PlanMaker, Target, runtime_named, timing_path
from engine.cache import CacheEntry, PlanCache, write_plan
from engine.commands import MatrixName, parse_size, warn_untrained
from engine.contract import FrameFormat
from engine.errors import ContractError
from engine.models import load_model
from engine.plan import Plan, Profile

CANCELLED = 130
"""Exit code after Ctrl-C, as shells expect it."""

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Build:
    """Build TensorRT plans: for named compute capabilities without any GPU, or for the one here."""

    backend: RuntimeName = "tensorrt_rtx"
    """Which TensorRT. Only tensorrt_rtx builds without a GPU."""
    model: str = "fast"
    """A model name or the path of a weights file; untrained ones are built with a warning."""
    sm: str = ""
    """Compute capabilities without the dot, e.g. 75,80,86,89,120 (75 is a T4): one plan each.
    Empty: the GPU at hand."""
    out: Path | None = None
    """A .plan file for one plan, a folder for several. Not given: the plan cache."""
    format: FrameFormat = "rgb24"
    """Frame format."""
    size: str = "1024x1024"
    """WIDTHxHEIGHT of the frames in pixels; the plan takes exactly this size."""
    max_size: str = ""
    """WIDTHxHEIGHT: makes a dynamic plan for 64x64 up to this size, fastest at --size."""
    matrix: MatrixName = "bt709"
    """Colour matrix of nv12 samples."""
    full_range: bool = False
    """Whether nv12 samples span 0..255 rather than 16..235."""
    level: Literal[0, 1, 2, 3, 4, 5] = 3
    """Optimisation level: how long the builder searches."""
    tiling: Literal["NONE", "FAST", "MODERATE", "FULL"] = "NONE"
    """Tiling across kernels in L2 (full TensorRT)."""

    def run(self) -> int:
        """Builds, writes and prints what was made. 130 when it was cancelled."""
        runtime = runtime_named(self.backend)
        targets = self.targets(runtime)
        width, height = parse_size(self.size)
        options = self.options(width, height)
        paths = [self.path_for(target, len(targets)) for target in targets]
        model = load_model(self.model, allow_untrained=True)
        warn_untrained(model)
        built = []
        for target, path in zip(targets, paths, strict=True):
            maker = PlanMaker(runtime, model, target, options)
            try:
                plan = with_progress(
                    f"{model.name} for {label(target)}", partial(self.one, maker, path)
                )
            except BuildCancelled as error:
                Console(stderr=True).print(f"sr-engine: {error}")
                return CANCELLED
            built.append((target, path, plan))
        Console().print(plans_table(built))
        return 0

    def targets(self, runtime: TrtRuntime) -> list[Target]:
        """What to build for. Raises BackendUnavailable or ContractError for an impossible one."""
        if not self.sm:
            thread = GpuThread(open_device)
            thread.close()
            return [Target.of(runtime, thread.facts)]
        if not runtime.targets:
            raise ContractError(
                "full TensorRT builds only for the GPU at hand: leave --sm away, or use "
                "--backend tensorrt_rtx"
            )
        known = {name.replace(".", ""): name for name in runtime.targets}
        wanted = [part.strip() for part in self.sm.split(",")]
        for part in wanted:
            if part not in known:
                raise ContractError(f"--sm {part!r} is not one of {', '.join(known)}")
        return [Target(known[part]) for part in dict.fromkeys(wanted)]

    def path_for(self, target: Target, count: int) -> Path | None:
        """The file for a target; None is the cache. Raises ContractError for a bad ``--out``."""
        if self.out is None:
            return None
        is_file = self.out.suffix == ".plan"
        if is_file and count > 1:
            raise ContractError(f"--out {self.out} is one file and {count} plans need a folder")
        if is_file:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            return self.out
        self.out.mkdir(parents=True, exist_ok=True)
        name = f"{Path(self.model).stem}-{self.format}-{self.size}-{label(target)}.plan"
        return self.out / name

    def one(self, maker: PlanMaker, path: Path | None, on_progress: OnProgress) -> Plan:
        """Builds one plan and puts it where it belongs."""
        width, height = parse_size(self.size)
        spec = LaneSpec(height, width, self.format, self.matrix, self.full_range)
        for_gpu_at_hand = not maker.runtime.targets
        if path is None or for_gpu_at_hand:
            cache = PlanCache.open(notify=say)
            if for_gpu_at_hand:
                maker.timing_file = timing_path(cache, maker.runtime, maker.target.gpu_name)
            if path is None:
                return CachedPlans(maker, cache, on_progress).plan_for(spec, lambda plan: None)
        plan = maker.make(spec, on_progress)
        write_plan(path, plan)
        return plan

    def options(self, width: int, height: int) -> BuildOptions:
        """The builder's options for frames of this size."""
        profile = Profile.static(height, width)
        if self.max_size:
            widest, highest = parse_size(self.max_size)
            try:
                profile = Profile((64, 64), (height, width), (highest, widest))
            except ValueError as error:
                raise ContractError(
                    f"--max-size {self.max_size} must be at least --size {self.size}, and that "
                    "at least 64x64"
                ) from error
        return BuildOptions(self.format, profile, self.level, self.tiling)


@dataclass(frozen=True, slots=True)
class Cache:
    """List the plans in the cache, or delete old, rejected and left-over ones."""

    action: tyro.conf.Positional[Literal["list", "prune"]]
    """What to do."""
    dir: Path | None = None
    """The cache; not given: SR_CACHE_DIR or ~/.cache/sr-server."""
    days: float = 30.0
    """prune: keep plans made within so many days; 0 deletes all."""
    json: bool = False
    """list: print JSON instead of a table."""

    def run(self) -> int:
        """Prints the plans, or what was deleted."""
        cache = PlanCache.open(self.dir, notify=say)
        if self.action == "prune":
            files, freed = cache.prune(self.days * SECONDS_PER_DAY)
            print(f"deleted {files} files, {freed / 1e6:.1f} MB, from {cache.directory}")
            return 0
        entries = cache.entries()
        if self.json:
            print(json.dumps([entry_facts(entry) for entry in entries]))
        else:
            Console().print(cache_table(cache.directory, entries))
        return 0


def with_progress(title: str, work: Callable[[OnProgress], Plan]) -> Plan:
    """Runs ``work`` beside a progress bar on stderr; Ctrl-C cancels it.

    The build runs on a thread of its own: the main one can then be interrupted, which it could
    not be inside the builder.

    Raises:
        BuildCancelled: Ctrl-C was pressed.
    """
    cancelled = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"))
    with (
        Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar,
        ThreadPoolExecutor(1) as worker,
    ):
        task = bar.add_task(title, total=1.0, phase="")

        def on_progress(fraction: float, phase: str) -> bool:
            bar.update(task, completed=fraction, phase=phase)
            return not cancelled.is_set()

        future = worker.submit(work, on_progress)
        try:
            plan = future.result()
        except KeyboardInterrupt:
            cancelled.set()
            future.result()
            raise BuildCancelled("the build was cancelled") from None
        bar.update(task, completed=1.0, phase="")
        return plan


def say(message: str) -> None:
    """A sentence for the person, on stderr."""
    Console(stderr=True).print(f"sr-engine: {message}", markup=False)


def label(target: Target) -> str:
    """``sm75``."""
    return f"sm{target.compute_capability.replace('.', '')}"


def plans_table(built: list[tuple[Target, Path | None, Plan]]) -> Table:
    """One row per plan."""
    table = Table(Column("plan", overflow="fold"), "for", "MB", "seconds", "sha256", "verified")
    for target, path, plan in built:
        record = plan.record
        table.add_row(
            str(path) if path else f"cache {record.key.digest[:16]}",
            label(target),
            f"{record.size_bytes / 1e6:.1f}",
            f"{record.build_seconds:.2f}",
            record.sha256[:16],
            "yes" if record.verified else "on first load",
        )
    return table


def cache_table(directory: Path, entries: list[CacheEntry]) -> Table:
    """One row per plan; what is wrong with it where something is."""
    table = Table("plan", "model", "for", "frames", "MB", "days old", "state", title=str(directory))
    for entry in entries:
        age = f"{(time.time() - entry.modified) / SECONDS_PER_DAY:.1f}"
        size = f"{entry.size_bytes / 1e6:.1f}"
        if entry.record is None:
            table.add_row(entry.path.stem[:16], "?", "?", "?", size, age, entry.problem)
            continue
        record, key = entry.record, entry.record.key
        height, width = key.profile.maximum
        table.add_row(
            entry.path.stem[:16],
            record.model,
            f"{key.backend} {key.compute_capability} {key.gpu_name}".rstrip(),
            f"{key.format} {width}x{height}",
            size,
            age,
            f"verified on {record.verified_on}" if record.verified else "not verified",
        )
    return table


def entry_facts(entry: CacheEntry) -> dict[str, object]:
    """For JSON."""
    facts: dict[str, object] = {"plan": entry.path.name, "size_bytes": entry.size_bytes}
    if entry.record is None:
        return facts | {"problem": entry.problem}
    return facts | {"record": asdict(entry.record)}
