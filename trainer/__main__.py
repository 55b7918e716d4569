"""``sr-train``: fit, release, evaluate, report and ablate from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from engine.command_line import parse_command_line
from engine.errors import EngineError
from trainer.ablate import AblateConfig
from trainer.config import FitConfig
from trainer.errors import Interrupted, TrainerError
from trainer.release import ReleaseConfig

if TYPE_CHECKING:
    from trainer.data import PictureSet
    from trainer.loop import FitResult

Flags = Annotated[FitConfig, tyro.conf.arg(name="")]
Release = Annotated[ReleaseConfig, tyro.conf.arg(name="")]
Ablations = Annotated[AblateConfig, tyro.conf.arg(name="")]
HELD_OUT = 16


def fit(config: Flags, html: bool = True) -> None:
    """Trains a network on a folder of pictures; the same command goes on where it was stopped.

    Args:
        config: the run.
        html: write report.html at the end.
    """
    from trainer.console import StopOnSignal, reading, watching
    from trainer.data import load_folder
    from trainer.distill import check_teacher
    from trainer.loop import Hooks
    from trainer.loop import fit as train
    from trainer.report import aerial_names, write_report

    check_teacher(config.teacher)
    first = os.environ.get("RANK", "0") == "0"
    pictures = load_folder(config.data, config.patch, config.validation_pictures, reading)
    with StopOnSignal() as stop:
        if not first:
            train(config, pictures, Hooks(stop=lambda: stop.asked))
            return
        with watching(config, stop) as hooks:
            result = train(config, pictures, hooks)
    if html:
        page = config.out / "report.html"
        write_report(config.out, pictures, page, aerial_names(config.data))
        print(page)
    print(
        f"{result.weights}: PSNR-Y {result.validation_psnr_y_db:.2f} dB on "
        f"{len(pictures.validation)} held-out crops; "
        f"sr-train evaluate {result.weights} --data DIR measures it on others"
    )


def release(config: Release) -> None:
    """Trains the widths that ship, one after the other or together, and scores them; resumable.

    Args:
        config: which widths, on what, for how long.
    """
    from trainer.console import reading
    from trainer.data import load_folder
    from trainer.release import (
        check_benchmarks,
        finish_of,
        fitted,
        recipe_of,
        scores_on,
        write_scores,
    )

    check_benchmarks(config.benchmarks)
    runs = {name: recipe_of(config, name) for name in config.names}
    patch = max(run.patch for run in runs.values())
    pictures = load_folder(config.data, patch, HELD_OUT, reading)
    groups = [runs] if config.together else [{name: run} for name, run in runs.items()]
    for group in groups:
        group = fitted(config, group, pictures)
        for name, run in group.items():
            print(f"{name}: {run.iterations} iterations into {run.out}", flush=True)
        first = _train(group, pictures)
        last = _train({name: finish_of(run) for name, run in group.items()}, pictures)
        for name, run in group.items():
            result = max(first[name], last[name], key=lambda each: each.validation_psnr_y_db)
            scores: dict[str, object] = {"held_out_psnr_y_db": result.validation_psnr_y_db}
            scores |= scores_on(config.benchmarks, result.weights)
            write_scores(run.out / "scores.json", scores)
            print(f"{result.weights}: {dumps(scores)}", flush=True)


def _train(runs: Mapping[str, FitConfig], pictures: PictureSet) -> dict[str, FitResult]:
    """One run with its progress bar, or several in turn, each with a line at its validations."""
    from trainer.console import StopOnSignal, watching
    from trainer.loop import fit as train
    from trainer.loop import fit_together

    with StopOnSignal() as stop, ExitStack() as stack:
        hooks = {
            name: stack.enter_context(watching(run, stop, name if len(runs) > 1 else None))
            for name, run in runs.items()
        }
        if len(runs) > 1:
            return fit_together(runs, pictures, hooks)
        return {name: train(run, pictures, hooks[name], name) for name, run in runs.items()}


def evaluate(
    weights: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path | None = None,
    clip: Path | None = None,
    lr_clip: Path | None = None,
    tta: bool = False,
    frames: int = 16,
    json: Path | None = None,
) -> None:
    """Measures weights on pictures (PSNR, SSIM) or a clip (PSNR, flicker), beside bicubic.

    The last line on stdout is the result as JSON.

    Args:
        weights: weights files, checkpoints (their moving average) or shipped names; several are
            averaged (seed averaging).
        data: folder of high-resolution pictures, or one with ``lr`` and ``hr`` folders in it.
        clip: video file or folder of frames, in high resolution.
        lr_clip: the same clip at a quarter of the size, coded; by default it is reduced here.
        tta: average over the 8 flips and rotations of each picture (x8 self-ensemble).
        frames: how much of the clip is measured.
        json: also write the result to this file.
    """
    from trainer.evaluation_table import Clip, measure, show
    from trainer.files import replace_file

    if not weights or (data is None and clip is None):
        raise TrainerError("give weights, and pictures with --data or a video with --clip")
    moving = None if clip is None else Clip(clip, lr_clip, frames)
    result = measure(weights, data, moving, tta)
    show(result)
    text = dumps(result)
    if json is not None:
        replace_file(json, f"{text}\n".encode(), "--json")
    print(text)


def report(
    data: Path,
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    out: Path | None = None,
) -> None:
    """Writes one HTML page: about a run and its data set, or about a data set alone.

    Args:
        data: folder of pictures.
        run: folder of a run (``--out`` of fit); without one the data set is surveyed.
        out: where the page goes; by default report.html in the run, or survey.html here.
    """
    from trainer.console import reading
    from trainer.report import report_folder
    from trainer.survey import survey

    if run is None:
        page = out or Path("survey.html")
        survey(data, page, reading)
    else:
        page = out or run / "report.html"
        report_folder(run, data, page, reading)
    print(page)


def ablate(config: Ablations) -> None:
    """Trains the default recipe and its variants, one change at a time; resumable.

    Args:
        config: the runs.
    """
    from trainer.ablate import ablate as run_all
    from trainer.console import StopOnSignal, reading
    from trainer.data import load_folder
    from trainer.loop import Hooks

    pictures = load_folder(config.data, config.patch, HELD_OUT, reading)
    with StopOnSignal() as stop:
        for line in run_all(config, pictures, Hooks(stop=lambda: stop.asked)):
            print(line, flush=True)
    print(config.table)


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """``command`` as tyro sees it, except that it only says what to run."""

    @wraps(command)
    def bind(*values: object, **named: object) -> Callable[[], None]:
        return partial(command, *values, **named)

    return bind


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a bad input is one sentence on stderr and exit code 2."""
    commands: dict[str, Callable[..., None]] = {
        "fit": fit,
        "release": release,
        "evaluate": evaluate,
        "report": report,
        "ablate": ablate,
    }
    later = {name: _deferred(command) for name, command in commands.items()}
    try:
        run = parse_command_line(
            "sr-train",
            arguments,
            lambda words: tyro.extras.subcommand_cli_from_dict(
                later, prog="sr-train", description=__doc__, args=words
            ),
        )
        run()
    except Interrupted as stopped:
        print(f"sr-train: {stopped}", file=sys.stderr)
        sys.exit(130)
    except (TrainerError, EngineError, ValueError, OSError) as error:
        print(f"sr-train: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
