"""What can go wrong in the engine, as exceptions a caller can tell apart.

Messages are one sentence: what was found and what to do. Built-in exceptions are for misuse by
the programmer; these are for the state of the world.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything the engine raises about the world rather than about its caller."""


class ContractError(EngineError):
    """A model, graph or frame breaks the rules of ``engine.contract``."""


class ModelError(EngineError):
    """A weights file or ONNX file is missing, unreadable, tampered with or untrained."""


class BackendUnavailable(EngineError):
    """The backend asked for cannot run on this machine (no library, no GPU, wrong driver)."""


class EngineFault(EngineError):
    """A frame came out wrong, late or not at all; the lane that made it must not be used again."""


class OutOfMemory(EngineFault):
    """The device or the host had no memory for a frame of this size."""


class PlanError(EngineError):
    """A plan could not be built, loaded or trusted."""
