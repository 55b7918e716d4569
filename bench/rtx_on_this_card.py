"""Which TensorRT for RTX plans does the GPU at hand run? Prints one line of JSON per target.

RTX names compute capabilities 7.5, 8.0, 8.6, 8.9 and 12.0; Hopper (9.0) is not among them. The
product refuses a plan for another one; here each is tried, and whatever it builds for the GPU at
hand (``current``), and the runtime's own words are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

CURRENT = "current"
TIMEOUT_SECONDS = 60


def attempt(compute_capability: str) -> dict[str, Any]:
    """Builds a plan for a target, loads it on this GPU and compares its frames with FP32."""
    from engine.backends import tensorrt_rtx
    from engine.backends.base import LaneSpec
    from engine.backends.cuda_driver import open_device
    from engine.backends.cuda_thread import GpuThread
    from engine.backends.tensorrt_backend import TensorRtBackend
    from engine.build import PlanMaker, Target
    from engine.errors import EngineError
    from engine.models import load_model
    from engine.plan import Plan
    from engine.verify import run_gate

    runtime = tensorrt_rtx.runtime()
    runtime = replace(runtime, targets={**runtime.targets, CURRENT: "CURRENT"})
    model = load_model("fast", allow_untrained=True)
    spec = LaneSpec(256, 256)

    class ThisPlan:
        """A source that gives the plan whatever the GPU is."""

        def plan_for(self, spec: LaneSpec, check: Any) -> Plan:
            """Builds and loads it here and now."""
            plan = PlanMaker(runtime, model, Target(compute_capability)).make(spec)
            check(plan)
            return plan

        def accept(self, plan: Plan, device: str) -> None:
            """Nothing to remember."""

        def reject(self, plan: Plan, reason: str) -> None:
            """Nothing to remember."""

    found: dict[str, Any] = {"plan_for": compute_capability, "tensorrt_rtx": runtime.version}
    try:
        thread = GpuThread(open_device)
        found |= {"device": thread.facts.name, "is": thread.facts.compute_capability}
        backend = TensorRtBackend(thread, runtime, model, ThisPlan(), lambda backend, spec: "")
        with backend:
            report = run_gate(backend, model, spec)
        worst = report.worst
        return found | {"runs": True, "gate": report.passed, "psnr_db": round(worst.psnr_db, 2)}
    except EngineError as error:
        return found | {"runs": False, "error": str(error)}


def tried(target: str) -> str:
    """The line of one target. A process each, because a CUDA error outlives its cause."""
    died: dict[str, Any] = {"plan_for": target, "runs": False}
    command = [sys.executable, __file__, target]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return json.dumps(died | {"error": f"no result after {TIMEOUT_SECONDS} s"})
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    words = f"exit {result.returncode}: {result.stderr.strip()[-500:]}"
    return lines[-1] if lines else json.dumps(died | {"error": words})


def main() -> int:
    """One line per target."""
    from engine.backends.tensorrt_rtx import TARGETS

    if len(sys.argv) == 2:
        print(json.dumps(attempt(sys.argv[1])), flush=True)
        return 0
    for target in (*TARGETS, CURRENT):
        print(tried(target), flush=True)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
