"""``sr-train``: fit, evaluate, report and ablate from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from engine.errors import EngineError
from trainer.config import FitConfig
from trainer.errors import Interrupted, TrainerError

Flags = Annotated[FitConfig, tyro.conf.arg(name="")]


def fit(config: Flags) -> None:
    """Trains a network on a folder of pictures; the same command goes on where it was stopped.

    Args:
        config: the run.
    """
    from trainer.console import StopOnSignal, reading, watching
    from trainer.data import load_folder
    from trainer.loop import Hooks
    from trainer.loop import fit as train

    first = os.environ.get("RANK", "0") == "0"
    pictures = load_folder(config.data, config.patch, config.validation_pictures, reading)
    with StopOnSignal() as stop:
        if not first:
            train(config, pictures, Hooks(stop=lambda: stop.asked))
            return
        with watching(config, stop) as hooks:
            result = train(config, pictures, hooks)
    print(
        f"{result.weights}: PSNR-Y {result.validation_psnr_y_db:.2f} dB on "
        f"{len(pictures.validation)} held-out crops; "
        f"sr-train evaluate {result.weights} --data DIR measures it on others"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a bad input is one sentence on stderr and exit code 2."""
    commands = {"fit": fit}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="sr-train", description=__doc__, args=arguments
        )
    except Interrupted as stopped:
        print(f"sr-train: {stopped}", file=sys.stderr)
        sys.exit(130)
    except (TrainerError, EngineError, ValueError) as error:
        print(f"sr-train: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
