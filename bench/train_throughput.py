"""How much faster does training run for being merged in weight space? All in one run, in turns.

Three contestants train the same over-parameterised network on the same pictures:

* `plain`: a loop as a person would write it. Every branch is its own convolution and the outputs
  are added; FP32, NCHW, RAdam.
* `merged`: our loop in FP32. Branches are merged into one kernel per layer at every step.
* `ours`: our loop as it ships (bf16 where the processor has it).

Prints LR megapixels a second (the median step of each), the ratios, then one line of JSON, which
``--save`` keeps.

    python bench/train_throughput.py --width 16 --batch 16 --patch 48 --steps 7 --save run.json
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

if __name__ == "__main__":  # run as a file, Python finds only what lies beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.machine import ROOT, git_commit, load_average, versions
from engine.backends.onnxruntime import available_cores, processor_name
from engine.command_line import parse_command_line
from engine.network import NetworkConfig
from trainer.augment import augment
from trainer.blocks import BlockConfig, Branches, RepConv, TrainingNetwork
from trainer.config import FitConfig
from trainer.data import PictureSet, load_folder
from trainer.errors import TrainerError
from trainer.files import replace_file
from trainer.losses import parse_loss
from trainer.sampling import Cropping, sample_batch
from trainer.training import Trainer, step_generator

DATA = ROOT / "tests" / "data" / "train_small"
Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """Compare our training loop with a plain one that does not merge branches."""

    data: Path = DATA
    """Folder of pictures."""
    width: int = 16
    """Channels of the network."""
    branches: Branches = "rich"
    """``rich`` has three weighted branches and the identity, ``edge`` six, ``rep`` two."""
    batch: int = 16
    """Crops per step."""
    patch: int = 48
    """Side of an LR crop in pixels."""
    steps: int = 7
    """Timed steps of each; the median counts. One more warms up."""
    threads: int | None = None
    """Cores; all of them when not given."""
    require: float | None = None
    """Exit 1 when ours is less than this many times as fast as the plain loop."""
    save: Path | None = None
    """JSON file for what was measured, with the machine, the versions and the options."""


class UnmergedConv(RepConv):
    """The same block with one convolution per branch, (N, cin, H, W) -> (N, cout, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        total = F.conv2d(x, self.weight3, self.bias, padding=1)
        if self.has_pointwise:
            total = total + F.conv2d(x, self.weight1)
        if self.has_expansion:
            wide = F.conv2d(x, self.expand[:, :, None, None])
            deep = F.conv2d(wide, self.spatial, padding=1)
            total = total + F.conv2d(deep, self.project[:, :, None, None])
        if self.has_edges:
            for edge, points, scales in zip(
                self.edge_filters, self.edge_points, self.edge_scales, strict=True
            ):
                mixed = F.conv2d(x, points[:, :, None, None])
                kernels = scales[:, None, None, None] * edge
                total = total + F.conv2d(mixed, kernels, padding=1, groups=len(kernels))
        if self.has_identity:
            total = total + x * self.identity_gain[:, None, None]
        return total


def unmerged(network: TrainingNetwork) -> TrainingNetwork:
    """Makes every block of ``network`` compute its branches one by one; outputs stay the same."""
    for block in network.rep_convolutions():
        kept = type(block)
        # A weight-normalised block is of a class that torch made for it alone.
        block.__class__ = type("Unmerged" + kept.__name__, (UnmergedConv, kept), {})
    return network


def plain_step(config: FitConfig, pictures: PictureSet) -> Callable[[], None]:
    """One step of the plain loop."""
    network = unmerged(TrainingNetwork(config.network, config.block, config.seed))
    optimiser = torch.optim.RAdam(network.parameters(), config.optimiser.learning_rate)
    loss_of = parse_loss(config.losses[0])

    def step() -> None:
        generator = step_generator(config.seed, 0)
        batch = sample_batch(pictures.train, Cropping(config.batch, config.patch), generator)
        lr, hr = (x.float() / 255 for x in augment(batch, config.augment, generator))
        loss = loss_of(network(lr), hr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def interleaved_seconds(contestants: list[Callable[[], object]], steps: int) -> list[float]:
    """The median step of each, in turns so that a busy machine is equally unfair."""
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(steps + 1):
        for contestant, taken in zip(contestants, times, strict=True):
            start = time.perf_counter()
            contestant()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def measure(options: Options) -> dict[str, float]:
    """LR megapixels a second of each contestant."""
    pictures = load_folder(options.data, options.patch, 1)
    with tempfile.TemporaryDirectory() as out:
        config = FitConfig(
            options.data,
            Path(out),
            NetworkConfig(width=options.width),
            BlockConfig(options.branches),
            batch=options.batch,
            patch=options.patch,
            precision="fp32",
            device="cpu",
        )
        shipped = FitConfig(**{**_fields(config), "precision": "auto"})
        cpu = torch.device("cpu")
        contestants: dict[str, Callable[[], object]] = {
            "plain": plain_step(config, pictures),
            "merged": Trainer(config, pictures, cpu).train_step,
            "ours": Trainer(shipped, pictures, cpu).train_step,
        }
        seconds = interleaved_seconds(list(contestants.values()), options.steps)
    pixels = options.batch * options.patch**2 / 1e6
    return {name: pixels / taken for name, taken in zip(contestants, seconds, strict=True)}


def _fields(config: FitConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in FitConfig.__slots__}


def report(options: Options, speeds: dict[str, float]) -> Report:
    """What was measured, on what, of what: the last line, and the file of ``--save``."""
    ratio = speeds["ours"] / speeds["plain"]
    passed = options.require is None or ratio >= options.require
    config = asdict(options) | {"data": named(options.data)}
    del config["save"]
    return {
        "schema": 2,
        "machine": f"{processor_name()} ({torch.get_num_threads()} threads)",
        "versions": versions(torch.__version__),
        "git_commit": git_commit(),
        "load_average": load_average(),
        "config": config,
        "lr_megapixels_per_second": {name: round(speed, 4) for name, speed in speeds.items()},
        "ratio_merged": round(speeds["merged"] / speeds["plain"], 3),
        "ratio": round(ratio, 3),
        "verdict": "PASS" if passed else "FAIL",
    }


def named(folder: Path) -> str:
    """A folder of these sources by its place in them, another one by its name."""
    whole = folder.resolve()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else whole.name


def main(arguments: list[str] | None = None) -> int:
    """Prints the comparison; 1 when ``--require`` is not met, 2 for files that are no good."""
    options = parse_command_line(
        "bench/train_throughput.py",
        arguments,
        lambda words: tyro.cli(
            Options, prog="bench/train_throughput.py", args=words, description=__doc__
        ),
    )
    torch.set_num_threads(options.threads or available_cores())
    try:
        speeds = measure(options)
        found = report(options, speeds)
        if options.save is not None:
            content = json.dumps(found, indent=1, sort_keys=True) + "\n"
            replace_file(options.save, content.encode(), "--save")
    except TrainerError as error:
        print(f"bench/train_throughput.py: {error}", file=sys.stderr)
        return 2
    table = Table("loop", "LR megapixels/s", "times plain")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.3f}", f"{speed / speeds['plain']:.2f}")
    Console().print(table)
    print(json.dumps(found))
    return 0 if found["verdict"] == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main())
