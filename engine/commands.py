"""What ``sr-engine export``, ``info`` and ``verify`` do; their fields are the command line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Column, Table

from engine.backends.base import Backend, LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.contract import FrameFormat, GraphFormat, Precision
from engine.errors import ContractError
from engine.graph_check import GraphInfo, check_graph
from engine.models import NAMES, Model, load_model
from engine.selection import cpu_model, model_of, open_backend
from engine.triton import write_repository
from engine.verify import FrameScore, GateReport, run_gate

MatrixName = Literal["bt601", "bt709", "bt2020"]

LARGEST_SIDE = 16_384
"""Pixels. Frames beyond 1024x1024 go through in strips, so a larger plan serves nobody; TensorRT
for RTX builds 16384x8192, hangs at twice that and takes the process down at 70000x70000."""
LARGEST_FRAME = LARGEST_SIDE * LARGEST_SIDE // 2
"""Pixels."""


@dataclass(frozen=True, slots=True)
class Export:
    """Write the ONNX files of a model, each compared with PyTorch first."""

    model: tyro.conf.Positional[str]
    """A model name or the path of a weights file; untrained ones are exported with a warning."""
    out: Path | None = None
    """Folder for the files."""
    triton: Path | None = None
    """Folder for a model repository of NVIDIA's Triton Inference Server."""
    triton_plan: tuple[Path, ...] = ()
    """Plans of sr-engine build --backend tensorrt to put into that repository too."""
    format: tuple[GraphFormat, ...] = ("rgb24", "tensor")
    """Which graphs."""
    precision: tuple[Precision, ...] = ("fp32",)
    """fp32 for CPUs, fp16 for GPUs."""
    matrix: MatrixName = "bt709"
    """Colour matrix of nv12 samples."""
    full_range: bool = False
    """Whether nv12 samples span 0..255 rather than 16..235."""

    def run(self) -> int:
        """Writes the files and prints what was written."""
        if self.out is None and self.triton is None:
            raise ContractError("say where the files go: --out FOLDER, --triton FOLDER or both")
        if self.triton_plan and self.triton is None:
            raise ContractError("--triton-plan needs --triton FOLDER, where the plans go")
        with TemporaryDirectory() as folder:
            files = self._export(self.out or Path(folder))
            if self.triton is not None:
                for made in write_repository(self.triton, files, self.triton_plan):
                    Console().print(f"{made}: config.pbtxt and version 1", soft_wrap=True)
        return 0

    def _export(self, out: Path) -> list[Path]:
        from engine.export import Variant, export_model  # torch: only here

        model = load_model(self.model, allow_untrained=True)
        warn_untrained(model)
        variants = [
            Variant(graph_format, precision, self.matrix, self.full_range)
            for graph_format in self.format
            for precision in self.precision
        ]
        table = Table(Column("file", overflow="fold"), "sha256", "max", "mean")
        exported = export_model(model, out, variants)
        for item in exported:
            table.add_row(
                item.path.name if self.out is None else str(item.path),
                item.graph.sha256[:16],
                f"{item.max_difference:.3g}",
                f"{item.mean_difference:.2g}",
            )
        table.caption = "differences from PyTorch FP32 in grey levels"
        Console().print(table)
        return [item.path for item in exported]


@dataclass(frozen=True, slots=True)
class Info:
    """Show what a model or an ONNX file is and where it came from."""

    model: tyro.conf.Positional[str]
    """A model name, or the path of a .safetensors or .onnx file."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the facts."""
        if self.model.endswith(".onnx"):
            facts = graph_facts(read_onnx(Path(self.model)))
        else:
            facts = model_facts(load_model(self.model, allow_untrained=True))
        if self.json:
            print(json.dumps(facts))
        else:
            table = Table(Column(self.model, no_wrap=True), Column(overflow="fold"))
            for name, value in facts.items():
                table.add_row(name, str(value))
            Console().print(table)
        return 0


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare a plan or a backend with FP32 ONNX Runtime on natural and hostile frames."""

    plan: Path | None = None
    """A plan made by sr-engine build; it fixes backend, model, size and format."""
    backend: Literal["winograd", "onnxruntime", "tensorrt", "tensorrt_rtx", "nearest"] = (
        "onnxruntime"
    )
    """Which backend is judged."""
    model: str = "auto"
    """A model name or the path of a weights file."""
    size: str = "128x128"
    """WIDTHxHEIGHT of the frames in pixels."""
    format: FrameFormat = "rgb24"
    """Frame format."""
    matrix: MatrixName = "bt709"
    """Colour matrix of nv12 samples."""
    full_range: bool = False
    """Whether nv12 samples span 0..255."""
    precision: Annotated[Precision, tyro.conf.arg(help="Of the graph on onnxruntime.")] = "fp16"
    threads: int | None = None
    """Cores used; all of them when not given."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the scores; 0 when every frame passed, 1 otherwise."""
        backend, model, spec = self._open()
        with backend:
            report = run_gate(backend, model, spec, threads=self.threads)
        if self.json:
            print(json.dumps(report.to_dict()))
        else:
            Console().print(gate_table(report))
        return 0 if report.passed else 1

    def _open(self) -> tuple[Backend, Model, LaneSpec]:
        if self.plan is not None:
            from engine.gpu import GpuOptions, open_plan  # only where a GPU is wanted

            return open_plan(self.plan, GpuOptions(threads=self.threads, gated=False))
        width, height = parse_size(self.size)
        spec = LaneSpec(height, width, self.format, self.matrix, self.full_range)
        if self.backend == "onnxruntime":
            model = cpu_model(self.model, allow_untrained=True)
            return OnnxRuntimeBackend(model, self.threads, self.precision), model, spec
        backend = open_backend(self.backend, self.model, threads=self.threads, allow_untrained=True)
        return backend, model_of(backend.info, self.model), spec


def parse_size(text: str) -> tuple[int, int]:
    """``1024x768`` -> (1024, 768). Raises ContractError for anything else, or for too much."""
    match = re.fullmatch(r"0*([1-9][0-9]*)x0*([1-9][0-9]*)", text, re.ASCII)
    if match is None:
        raise ContractError(f"size must look like 1024x768, got {text!r}")
    # By length first: int() refuses thousands of digits with words of its own.
    if max(map(len, match.groups())) > len(str(LARGEST_SIDE)):
        raise ContractError(_too_large(text))
    width, height = (int(side) for side in match.groups())
    if max(width, height) > LARGEST_SIDE or width * height > LARGEST_FRAME:
        raise ContractError(_too_large(text))
    return width, height


def _too_large(size: str) -> str:
    return (
        f"frames of {size[:40]} are too large for one plan: at most {LARGEST_SIDE} pixels a side "
        f"and {LARGEST_FRAME} in all, larger ones go through in strips"
    )


def warn_untrained(model: Model) -> None:
    """Says on stderr that a model is a stand-in."""
    if not model.trained:
        Console(stderr=True).print(
            f"[yellow]warning[/]: {model.name} is untrained (made from seed 0); "
            "use it for tests and timings only"
        )


def read_onnx(path: Path) -> GraphInfo:
    """Reads and checks an ONNX file. Raises ContractError when it cannot be read or is wrong."""
    try:
        return check_graph(path.read_bytes())
    except OSError as error:
        raise ContractError(f"cannot read {str(path)!r}: {error.strerror}") from error


def model_facts(model: Model) -> dict[str, object]:
    """Configuration, cost, hashes and provenance, in reading order."""
    config = model.config
    return {
        "name": model.name,
        "trained": model.trained,
        "shipped": model.name in NAMES,
        **config.to_dict(),
        "layers": config.layers,
        "halo": config.halo,
        "parameters": model.parameters,
        "macs_per_pixel": config.macs_per_pixel,
        "gmacs_1024x1024": round(config.macs_per_pixel * 1024 * 1024 / 1e9, 2),
        "weights_sha256": model.sha256,
        **{
            key: value
            for key, value in sorted(model.metadata.items())
            if key not in ("config", "name", "trained")
        },
    }


def graph_facts(graph: GraphInfo) -> dict[str, object]:
    """Format, hash and the metadata of an ONNX file."""
    return {"format": graph.format, "onnx_sha256": graph.sha256, **graph.metadata}


def gate_table(report: GateReport) -> Table:
    """One row per frame, the verdict below."""
    verdict = "[green]PASS[/]" if report.passed else "[red]FAIL[/]"
    info, spec = report.backend, report.spec
    table = Table(
        "frame",
        "PSNR dB",
        "max",
        "mean",
        "",
        title=f"{info.name} {info.version} on {info.device}, {info.precision}, "
        f"{spec.format} {spec.width}x{spec.height}",
        caption=f"{verdict} against FP32 ONNX Runtime, in grey levels; "
        f"mean of all frames {report.mean_difference:.3f}",
    )
    for score in report.scores:
        table.add_row(*_score_row(score))
    return table


def _score_row(score: FrameScore) -> tuple[str, ...]:
    return (
        score.name,
        f"{score.psnr_db:.1f}",
        str(score.max_difference),
        f"{score.mean_difference:.3f}",
        "" if score.passed else "[red]FAIL[/]",
    )
