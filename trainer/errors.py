"""What can go wrong while training, as exceptions with a message for the user."""

from __future__ import annotations


class TrainerError(Exception):
    """Base: one sentence with what was found and what to do."""


class DataError(TrainerError):
    """A folder or picture cannot be trained on."""


class CheckpointError(TrainerError):
    """A checkpoint is unreadable or belongs to another run."""


class DivergedError(TrainerError):
    """The loss or a gradient became NaN or infinite at iteration ``step``."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(TrainerError):
    """A run was asked to stop; its state is on disk."""
