"""What a person sees of a run: a progress bar in the terminal, and TensorBoard."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)
from torch import Tensor

from trainer.config import FitConfig
from trainer.events import EventFile
from trainer.loop import Hooks
from trainer.optim import learning_rate

SCALARS_EVERY = 10


class StopOnSignal:
    """Inside, the first Ctrl-C (or SIGTERM) only sets ``asked``; a second one ends the process."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()


def reading(files: Iterable[Path], count: int) -> Iterator[Path]:
    """``files`` with a progress bar on stderr while they are read."""
    console = Console(stderr=True)
    yield from track(
        files, "reading pictures", total=count, console=console, transient=True, disable=count < 50
    )


def _bar(console: Console, shown: bool) -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.5f}"),
        TextColumn("PSNR-Y {task.fields[psnr]}"),
        console=console,
        disable=not shown,
    )


@contextmanager
def watching(config: FitConfig, stop: StopOnSignal, name: str | None = None) -> Iterator[Hooks]:
    """Hooks that draw a progress bar on stderr and write ``config.out``/tensorboard.

    Args:
        config: the run.
        stop: what asks it to stop.
        name: of one of several runs at a time: it gets a line per validation and no bar.

    Raises:
        TrainerError: that folder cannot be written, at once or while training.
    """
    console = Console(stderr=True)
    with EventFile(config.out / "tensorboard") as writer, _bar(console, name is None) as bar:
        task = bar.add_task("", total=config.iterations, loss=math.nan, psnr="-", speed="")

        def on_step(step: int, row: dict[str, float]) -> None:
            speed = bar.tasks[0].speed
            shown = "" if speed is None else f"{speed:.1f} steps/s"
            bar.update(task, completed=step, loss=row["loss"], speed=shown)
            if step % SCALARS_EVERY == 0 or "psnr_y_db" in row:
                rate = learning_rate(step - 1, config.iterations, config.optimiser)
                writer.add_scalar("learning_rate", rate, step)
                writer.add_scalar("loss", row["loss"], step)
            if "psnr_y_db" in row:
                bar.update(task, psnr=f"{row['psnr_y_db']:.2f} dB")
                writer.add_scalar("validation/psnr_y_db", row["psnr_y_db"], step)
                if name is not None or not console.is_terminal:
                    console.print(
                        f"{name + ': ' if name else ''}iteration {step}: loss {row['loss']:.5f}, "
                        f"PSNR-Y {row['psnr_y_db']:.3f} dB, {row['steps_per_second']:.2f} steps/s"
                    )

        def on_resume(step: int) -> None:
            bar.update(task, completed=step)
            console.print(f"going on from iteration {step} of {config.out}")

        def on_pictures(step: int, output: Tensor, hr: Tensor) -> None:
            side_by_side = torch.cat([output, hr[..., : output.shape[-1]]], dim=2)
            writer.add_image("validation/output and HR", side_by_side, step)

        yield Hooks(on_step, on_resume, on_pictures, lambda: stop.asked)
