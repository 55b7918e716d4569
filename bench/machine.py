"""Where a run happened: versions, commit, load, and the state of the GPU's clocks."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPU_FIELDS = (
    "driver_version,clocks.sm,clocks.mem,clocks_event_reasons.active,temperature.gpu,power.draw"
)


def versions(backend_version: str) -> dict[str, str]:
    """Of everything that can change a number."""
    found = {"python": platform.python_version(), "backend": backend_version}
    for package in ("numpy", "onnxruntime", "pycuda", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """The commit, with ``+`` when the tree differs from it; empty outside a repository."""
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if commit and changed else "")


def gpu_state() -> dict[str, str]:
    """Clocks, throttle reasons, temperature and power, as nvidia-smi prints them; empty without."""
    line = _output("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader")
    values = [value.strip() for value in line.splitlines()[0].split(",")] if line else []
    return dict(zip(GPU_FIELDS.split(","), values, strict=False))


def load_average() -> float:
    """Processes that wanted a core in the last minute: other work makes CPU figures too low."""
    return round(os.getloadavg()[0], 2)


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
