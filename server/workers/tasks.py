"""What an engine worker can do: pictures, videos, jobs, probes and the calibration.

Runs on spooled files; users' bytes are decoded in children of this process. Every error that a
caller can meet leaves as the fields of an ``ApiError``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.base import Backend
from engine.closing import Closing
from engine.errors import ModelError
from engine.frames import Bytes, Frame
from engine.models import load_model
from engine.selection import cpu_backend_name, open_backend
from engine.upscaler import Upscaler
from server.cluster.maker import EngineChoice
from server.cluster.video import ClusterOptions, upscale_on_cluster
from server.jobs.model import JobFolder
from server.live.options import LiveOptions
from server.live.work import run_live
from server.manifest import Manifest
from server.media.decode import DecodeOptions, Decoder
from server.media.errors import Cancelled
from server.media.limits import Limits
from server.media.pictures import PictureLimits
from server.picture_decoder import PictureDecoder
from server.picture_session import PictureOptions, upscale_picture
from server.segment_plan import Work
from server.segments import upscale_in_segments
from server.session import upscale_video
from server.settings import CPU_BACKEND
from server.video_options import VideoOptions
from server.workers import segment_tasks
from server.workers.calibration import calibrate
from server.workers.channel import Message
from server.workers.child import TaskContext, TaskFailed, TaskFunction
from server.workers.pipe import opened_pipe
from server.workers.preview import PreviewingUpscaler
from server.workers.reporting import ProgressReporter
from server.workers.task_errors import typed
from server.workers.vitals import vitals_of

_CHAIN = ("dataset_sha256", "checkpoint_sha256", "weights_sha256")
"""What a manifest tells of the weights; ONNX and plan are in its ``backend`` already."""
_NAMES = {"mp4": "result.mp4", "mkv": "result.mkv", "mov": "result.mov"}
_TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska", "mov": "video/quicktime"}


class EngineTasks(Closing):
    """The engines of one worker and the tasks that run on them.

    Args:
        config: see ``server.service.worker_configs``.
        on_build: told (what, fraction) while a plan is built.

    Raises:
        EngineError: the engine that the server was started with cannot run here.
        EngineFault: it runs, but its first frame is wrong.
    """

    def __init__(self, config: Message, on_build: Callable[[str, float], None]) -> None:
        self._config = config
        self._on_build = on_build
        if config["device"] is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(config["device"])
        self._backends: dict[str, Backend] = {}
        self._upscalers: dict[str, Upscaler] = {}
        self._provenances: dict[str, dict[str, str]] = {}
        self._decoder = PictureDecoder()
        self._main = self._open(config["model"])
        self._decoder.decode(_FIRST_PICTURE)  # starts its process before somebody waits for it

    def table(self) -> dict[str, TaskFunction]:
        """Task kind -> function."""
        return {
            "picture": typed(self.picture),
            "video": typed(self.video),
            "live": typed(self.live),
            "job": typed(self.job),
            "plan": typed(self.plan),
            "segment": typed(self.segment),
            "join": typed(self.join),
            "probe": typed(self.probe),
            "calibrate": typed(self.calibrate),
        }

    def info(self) -> Message:
        """Who runs the frames when no other model is asked for."""
        return {**asdict(self._main.info), "provenance": self._provenance({})}

    def vitals(self) -> Message:
        """How the worker is."""
        return vitals_of(self._main)

    def picture(self, task: Message, context: TaskContext) -> Message:
        """``source`` -> ``result``, an empty file that becomes a picture."""
        limits, options = self._config["limits"], task["options"]
        upscaler = _TimedUpscaler(self._upscaler(options))
        began = time.perf_counter()
        picture = self._decoder.decode(
            Path(task["source"]),
            PictureLimits(
                max_bytes=limits["max_picture_bytes"],
                max_pixels=limits["max_picture_pixels"],
                max_side=limits["max_picture_side"],
            ),
        )
        decoded = time.perf_counter()
        names = ("format", "quality", "height", "size", "best")
        chosen = PictureOptions(**{name: options[name] for name in names if name in options})
        encoded = upscale_picture(picture, upscaler, chosen)
        context.raise_if_cancelled()
        _fill_file(Path(task["result"]), encoded.data)
        done = time.perf_counter()
        upscale_ms = upscaler.seconds * 1e3
        return {
            "media_type": encoded.media_type,
            "format": encoded.format,
            "width": encoded.width,
            "height": encoded.height,
            "notes": list(encoded.notes),
            "engine": asdict(upscaler.info),
            "stages_ms": {
                "decode": round((decoded - began) * 1e3, 2),
                "upscale": round(upscale_ms, 2),
                "encode": round((done - decoded) * 1e3 - upscale_ms, 2),
            },
        }

    def video(self, task: Message, context: TaskContext) -> Message:
        """``source`` -> ``pipe``, a stream that ends where the work ends."""
        with opened_pipe(Path(task["pipe"])) as sink:
            manifest = upscale_video(
                Path(task["source"]),
                sink,
                self._watched(task, context),
                self._video_options(task["options"], "video"),
                ProgressReporter(context),
                cancelled=context.cancelled.is_set,
            )
        return self._summary(manifest, task["options"])

    def live(self, task: Message, context: TaskContext) -> Message:
        """Frames that come over ``socket``, answered over it until HTTP ends the stream."""
        options = LiveOptions(**task["options"])
        upscaler = self._upscaler(options.model_dump(include={"model"}))
        return run_live(upscaler, Path(task["socket"]), options, context)

    def job(self, task: Message, context: TaskContext) -> Message:
        """``folder``/input -> ``folder``/result, by way of segments that survive a kill."""
        folder = JobFolder(Path(task["folder"]))
        container = task["options"].get("format", "mp4")
        result = folder.path / _NAMES[container]
        folder.segments.mkdir(mode=0o700, exist_ok=True)
        clustered = self._config.get("cluster") is not None
        run_job = self._on_cluster if clustered else self._in_segments
        manifest = run_job(task, result, context)
        return {**self._summary(manifest, task["options"]), **_result_file(result, container)}

    def _in_segments(self, task: Message, result: Path, context: TaskContext) -> Manifest:
        folder = JobFolder(Path(task["folder"]))
        return upscale_in_segments(
            folder.input,
            result,
            folder.segments,
            self._watched({**task, "preview": str(folder.preview)}, context),
            self._video_options(task["options"], "job"),
            ProgressReporter(context),
            cancelled=context.cancelled.is_set,
            segment_seconds=self._config["segment_seconds"],
        )

    def _on_cluster(self, task: Message, result: Path, context: TaskContext) -> Manifest:
        """The job, with its frames run elsewhere; what is finished stays in its folder."""
        config, work = self._config, self._work(task)
        model = task["options"].get("model") or config["model"]
        weights = Path(model).read_bytes() if Path(model).is_file() else None
        engine = EngineChoice(config["backend"], model, config["threads"], weights)

        def cancelled() -> bool:
            context.report({})  # a cluster may take minutes to grow; it has limits of its own
            return context.cancelled.is_set()

        return upscale_on_cluster(
            work.source,
            result,
            ClusterOptions(config["cluster"], engine, work.segment_seconds, work.folder),
            work.options,
            ProgressReporter(context),
            cancelled=cancelled,
        )

    def plan(self, task: Message, context: TaskContext) -> Message:
        """See ``server.workers.segment_tasks``; so are the next two."""
        if self._config.get("cluster") is not None:  # which splits it by itself
            return {"missing": None, "frames": 0, "frames_total": None}
        return segment_tasks.plan(self._work(task), self._upscaler(task["options"]).info, context)

    def segment(self, task: Message, context: TaskContext) -> Message:
        """Segment ``number`` of ``folder``/input."""
        preview = str(JobFolder(Path(task["folder"])).preview)
        upscaler = self._watched({**task, "preview": preview}, context)
        return segment_tasks.segment(self._work(task), task["number"], upscaler, context)

    def join(self, task: Message, context: TaskContext) -> Message:
        """The segments of ``folder`` -> ``folder``/result."""
        work = self._work(task)
        output = work.source.with_name(_NAMES[work.container])
        backend = self._upscaler(task["options"]).info
        manifest = segment_tasks.joined(work, backend, output, task, context)
        return {
            **self._summary(manifest, task["options"]),
            **_result_file(output, work.container),
        }

    def probe(self, task: Message, context: TaskContext) -> Message:
        """What is known about the video ``source`` before any work."""
        limits = self._media_limits("job")
        with Decoder(Path(task["source"]), DecodeOptions(limits), context.raise_if_cancelled) as it:
            info = it.info
        rate = float(info.average_rate) if info.average_rate else None
        frames = info.frames_promised or None
        if frames is None and rate and info.duration_seconds:
            frames = round(rate * info.duration_seconds)
        return {
            "width": info.width,
            "height": info.height,
            "codec": info.codec,
            "container": info.container,
            "frames": frames,
            "frames_per_second": rate,
            "duration_seconds": info.duration_seconds,
        }

    def calibrate(self, task: Message, context: TaskContext) -> Message:
        """Frames a second of this engine, measured."""
        return calibrate(
            self._backends[self._config["model"]], task["height"], task["width"], context
        )

    def close(self) -> None:
        """Frees every engine and the picture decoder."""
        self._decoder.close()
        for upscaler in self._upscalers.values():
            upscaler.close()

    def _open(self, model: str) -> Upscaler:
        cache_dir, named = self._config["cache_dir"], self._config["backend"]
        backend = open_backend(
            cpu_backend_name() if named == CPU_BACKEND else named,
            model,
            threads=self._config["threads"],
            cache_dir=None if cache_dir is None else Path(cache_dir),
            on_progress=self._on_build_step,
        )
        upscaler = Upscaler(backend)
        self._backends[model], self._upscalers[model] = backend, upscaler
        upscaler.upscale(_canary())  # the guard looks at it before any user's frame
        return upscaler

    def _on_build_step(self, fraction: float, phase: str) -> bool:
        self._on_build(phase, fraction)
        return True

    def _upscaler(self, options: Message) -> Upscaler:
        """The engine with the model that was asked for; opened once, then kept."""
        model = options.get("model")
        if model is None or model == self._main.info.model:
            return self._main
        known = self._upscalers.get(model)
        try:
            return known or self._open(model)
        except ModelError as error:
            raise TaskFailed({"code": "bad_parameter", "message": str(error)}) from error

    def _provenance(self, options: Message) -> dict[str, str]:
        """Where the weights come from: their own hash, and those that they were made from."""
        if not self._main.info.model:  # nearest has none
            return {}
        given = options.get("model") or self._config["model"]
        name = self._main.info.model if given == "auto" else str(given)
        if name not in self._provenances:
            model = load_model(name)
            self._provenances[name] = {**model.metadata, "weights_sha256": model.sha256}
        return self._provenances[name]

    def _summary(self, manifest: Manifest, options: Message) -> Message:
        """What HTTP is told of a finished video; the hashes go on from where its engine's begin."""
        known = self._provenance(options)
        chain = {name: known.get(name) for name in _CHAIN}
        made = manifest.to_dict()
        return {
            "frames": manifest.frames_out,
            "fps": manifest.fps,
            "stages": manifest.stages,
            "manifest": {**made, "backend": {**made["backend"], **chain}},
        }

    def _watched(self, task: Message, context: TaskContext) -> PreviewingUpscaler:
        preview = task.get("preview")
        upscaler = self._upscaler(task["options"])
        return PreviewingUpscaler(upscaler, None if preview is None else Path(preview), context)

    def _work(self, task: Message) -> Work:
        folder = JobFolder(Path(task["folder"]))
        folder.segments.mkdir(mode=0o700, exist_ok=True)
        options = self._video_options(task["options"], "job")
        container = options.container or "mp4"
        seconds = self._config["segment_seconds"]
        return Work(folder.input, folder.segments, options, container, seconds)

    def _media_limits(self, kind: str) -> Limits:
        limits = self._config["limits"]
        return Limits(
            max_frame_pixels=limits["max_video_pixels"],
            max_frame_side=limits["max_video_side"],
            max_frames=limits[f"max_{kind}_frames"],
            max_duration_seconds=limits[f"max_{kind}_seconds"],
            max_average_fps=limits["max_fps"],
            max_streams=limits["max_streams"],
        )

    def _video_options(self, options: Message, kind: str) -> VideoOptions:
        names = ("codec", "quality", "height", "size", "strict")
        chosen: dict[str, Any] = {name: options[name] for name in names if name in options}
        return VideoOptions(
            **chosen, container=options.get("format"), limits=self._media_limits(kind)
        )


_FIRST_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae4260"
    "82"
)
"""A PNG of one black pixel."""


def _canary() -> Bytes:
    """64x64 of gradients and noise: nothing that zeros or a stale result could pass for."""
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))[..., np.newaxis]
    noise = np.random.default_rng(0).integers(0, 32, (64, 64, 3))
    return (ramp + noise).astype(np.uint8)


class _TimedUpscaler:
    """An upscaler that knows how long its engine took."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler
        self.info = upscaler.info
        self.seconds = 0.0

    def upscale(self, frame: Frame) -> Frame:
        began = time.perf_counter()
        try:
            return self._upscaler.upscale(frame)
        finally:
            self.seconds += time.perf_counter() - began


def _fill_file(path: Path, data: bytes) -> None:
    """Replaces the content of a file. Raises Cancelled when its caller has removed it."""
    try:
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()
    except FileNotFoundError:
        raise Cancelled from None


def _result_file(path: Path, container: str) -> Message:
    return {
        "result_name": path.name,
        "result_bytes": path.stat().st_size,
        "result_type": _TYPES[container],
    }
