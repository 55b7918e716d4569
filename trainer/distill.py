"""Distillation: a big x4 network as a second target.

Any checkpoint that ``spandrel`` recognises can teach (SwinIR, RealESRGAN ...). spandrel is
imported only when a teacher is asked for; it is in the ``distill`` extra.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from trainer.errors import TrainerError

Teacher = Callable[[Tensor], Tensor]
"""(N, 3, H, W) float in [0, 1] -> (N, 3, 4H, 4W), without gradients."""


MISSING = "--teacher needs spandrel; install it with pip install 'sr-server[distill]'"


def check_teacher(path: Path | None) -> None:
    """Says what is missing before a data set is read; None is no teacher.

    Raises:
        TrainerError: spandrel is not installed, or there is no such file.
    """
    if path is None:
        return
    if find_spec("spandrel") is None:
        raise TrainerError(MISSING)
    if not path.is_file():
        raise TrainerError(f"there is no teacher {path}; give a checkpoint with --teacher")


def load_teacher(path: Path, device: torch.device) -> Teacher:
    """The network in ``path`` as a teacher on ``device``.

    Raises:
        TrainerError: spandrel is missing, cannot read the file, or it is not an RGB x4 network.
    """
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
    except ImportError:
        raise TrainerError(MISSING) from None
    try:
        model = ModelLoader(device=device).load_from_file(path)
    except (
        UnsupportedModelError,
        UnpicklingError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
    ) as error:
        reason = str(error) or "no network that spandrel knows"
        raise TrainerError(
            f"{path} cannot be read as a teacher ({reason}); give --teacher a x4 checkpoint"
        ) from error
    if not isinstance(model, ImageModelDescriptor) or model.scale != SCALE:
        scale = getattr(model, "scale", "unknown")
        raise TrainerError(f"{path} enlarges by {scale}, a teacher must enlarge RGB by {SCALE}")
    if (model.input_channels, model.output_channels) != (3, 3):
        raise TrainerError(
            f"{path} has {model.input_channels} input and {model.output_channels} output channels, "
            "a teacher must have 3 and 3 (RGB); choose another --teacher"
        )
    model.eval()

    def teach(lr: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = model(lr)
        return answer

    return teach


def distillation(output: Tensor, lr: Tensor, teacher: Teacher, weight: float) -> Tensor:
    """``weight`` times the L1 distance to what the teacher makes of ``lr``.

    Raises:
        TrainerError: the teacher's answer has another size.
    """
    with torch.no_grad():
        answer = teacher(lr).float()
    if answer.shape != output.shape:
        raise TrainerError(
            f"the teacher answers {tuple(answer.shape)} where {tuple(output.shape)} is needed; "
            "choose a x4 network"
        )
    return weight * F.l1_loss(output, answer)
