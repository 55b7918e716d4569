"""What a run learns from beside its pictures: files by their content, not only by their names."""

from __future__ import annotations

from pathlib import Path

from engine.models import MODELS_DIR, NAMES
from trainer.config import FitConfig
from trainer.errors import TrainerError
from trainer.weights import file_sha256

BEGINNING = "start_from_sha256"
"""Of the file that gave the weights of iteration 0: a run that goes on no longer depends on it."""


def source_digests(config: FitConfig) -> dict[str, str]:
    """sha256 of the files of ``start_from``, ``ensemble_teacher`` and ``teacher``, where given.

    Returns:
        ``{"start_from_sha256": ...}`` and so on, beside the names in ``config.recipe()``.

    Raises:
        TrainerError: names the file that cannot be read.
    """
    files = {
        "start_from": config.start_from,
        "ensemble_teacher": config.ensemble_teacher,
        "teacher": config.teacher,
    }
    return {f"{key}_sha256": _digest(key, path) for key, path in files.items() if path is not None}


def _digest(setting: str, path: Path) -> str:
    shipped = setting == "ensemble_teacher" and str(path) in NAMES
    try:
        return file_sha256(MODELS_DIR / f"{path}.safetensors" if shipped else path)
    except OSError as error:
        flag = setting.replace("_", "-")
        raise TrainerError(
            f"{path} cannot be read ({error.strerror}); give another --{flag}"
        ) from error
