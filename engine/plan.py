"""What makes two plans different, and what is written beside one.

A plan is executable code. Its name is the digest of a :class:`PlanKey`, its sha256 stands in a
JSON file beside it, and :func:`read_plan` refuses one whose bytes are not the ones named there.
Knows nothing of directories, locks (``engine.cache``) or runtimes (``engine.backends``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from engine.errors import PlanError

PLAN_SCHEMA = 1
"""Version of the key and of the JSON beside a plan; a change makes every old plan a miss."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The input sizes that a plan takes; equal minimum and maximum is a static plan."""

    minimum: Size = (1024, 1024)
    optimum: Size = (1024, 1024)
    maximum: Size = (1024, 1024)

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 1 <= low <= middle <= high:
                raise ValueError(
                    f"a profile needs 1 <= minimum <= optimum <= maximum, got {self.minimum}, "
                    f"{self.optimum} and {self.maximum}"
                )

    @classmethod
    def static(cls, height: int, width: int) -> Self:
        """A profile of exactly one size."""
        return cls((height, width), (height, width), (height, width))

    def admits(self, height: int, width: int) -> bool:
        """Whether a frame of this size can run."""
        low, high = self.minimum, self.maximum
        return low[0] <= height <= high[0] and low[1] <= width <= high[1]


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that makes two plans different. Names of GPUs, not their serial numbers: equal
    cards share a plan."""

    onnx_sha256: str
    """sha256 of the ONNX bytes: a retrained model under the same name is another plan."""
    backend: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    backend_version: str
    """All four parts of the runtime's version."""
    cuda_version: str
    """CUDA major.minor the runtime was made for."""
    compute_capability: str
    """``7.5`` for a T4."""
    gpu_name: str = ""
    """Empty for a plan built ahead of time: it fits every GPU of its compute capability."""
    multiprocessors: int = 0
    """Of the GPU; 0 ahead of time."""
    memory_gib: int = 0
    """Device memory rounded to GiB; 0 ahead of time."""
    platform: str = "linux-x86_64"
    format: str = "rgb24"
    """Frame format of the graph: fixes names, types and layouts of inputs and outputs."""
    precision: str = "fp16"
    profile: Profile = Profile()
    optimization_level: int = 3
    tiling_level: str = "NONE"
    max_aux_streams: int = 0
    workspace_bytes: int = 0
    """0 is the runtime's own default."""
    flags: tuple[str, ...] = ()
    """Further builder flags, sorted."""
    timing_cache: bool = False
    """Whether timings measured in earlier builds were used."""
    schema: int = PLAN_SCHEMA

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal keys give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """The plan's name: sha256 of :meth:`to_json`, 64 hex digits."""
        return sha256_hex(self.to_json().encode())

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """The key stored by ``asdict``.

        Raises:
            PlanError: a field is missing, unknown or of the wrong type.
        """
        try:
            sizes = {
                name: _size(raw["profile"][name]) for name in ("minimum", "optimum", "maximum")
            }
            return cls(**{**raw, "profile": Profile(**sizes), "flags": tuple(raw["flags"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"the JSON beside a plan does not hold a plan key ({error}): build the plan again"
            ) from error


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The JSON beside a plan."""

    key: PlanKey
    sha256: str
    """Of the plan's bytes."""
    size_bytes: int
    build_seconds: float = 0.0
    model: str = ""
    """Name of the model, for people; the key holds what identifies it."""
    trained: bool = True
    verified: bool = False
    """Whether the gate (``engine.verify``) passed on ``verified_on``."""
    verified_on: str = ""
    """GPU and driver that ran the gate. A plan that moves to another runs it again."""

    def to_json(self) -> str:
        """Indented for people, sorted for diffs; ends with a newline."""
        record = {"schema": PLAN_SCHEMA, "digest": self.key.digest, **asdict(self)}
        return json.dumps(record, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads :meth:`to_json`.

        Raises:
            PlanError: not such a JSON, another schema, or a digest that is not the key's.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise PlanError(f"the JSON beside a plan is unreadable ({error})") from error
        if not isinstance(raw, dict) or raw.get("schema") != PLAN_SCHEMA:
            raise PlanError("the JSON beside a plan is of another version: build the plan again")
        key = PlanKey.from_dict(raw.get("key") or {})
        if raw.get("digest") != key.digest:
            raise PlanError("the JSON beside a plan names another key's digest: build it again")
        known = {field.name for field in fields(cls)} - {"key"}
        try:
            return cls(key=key, **{name: raw[name] for name in known})
        except KeyError as error:
            raise PlanError(
                f"the JSON beside a plan lacks {error}: build the plan again"
            ) from error

    def as_verified(self, device: str) -> Self:
        """This record after the gate passed on ``device``."""
        return replace(self, verified=True, verified_on=device)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan whose bytes are the ones its record names."""

    record: PlanRecord
    data: bytes


def sha256_hex(data: bytes) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def record_path(plan_path: Path) -> Path:
    """``fast.plan`` -> ``fast.plan.json``."""
    return plan_path.with_name(plan_path.name + ".json")


def read_plan(path: Path) -> Plan:
    """The plan at ``path``, checked against the JSON beside it before anything deserialises it.

    Raises:
        PlanError: either file is missing or unreadable, or the bytes are not those of the JSON.
    """
    beside = record_path(path)
    try:
        record = PlanRecord.from_json(beside.read_text(encoding="utf-8"))
        data = path.read_bytes()
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise PlanError(
            f"{path.name}: {missing} is missing, and a plan is only loaded together with its "
            "JSON: build it with sr-engine build"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path.name} or its JSON cannot be read ({error})") from error
    except PlanError as error:
        raise PlanError(f"{path.name}: {error}") from error
    if len(data) != record.size_bytes or sha256_hex(data) != record.sha256:
        raise PlanError(
            f"{path.name} holds {len(data)} bytes that are not those its JSON names "
            f"({record.size_bytes} bytes, sha256 {record.sha256[:12]}…): build it again"
        )
    return Plan(record, data)


def _size(raw: Any) -> Size:
    height, width = raw
    return int(height), int(width)
