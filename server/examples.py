"""Examples in the API's description: a curl line for every route, a body for every JSON answer.

Knows nothing of what the routes do; ``server.app`` puts these into the OpenAPI document.
"""

from __future__ import annotations

from typing import Any

from server.jobs.view import EXAMPLE as JOB

_SHA = "9f2c61a5b0d84e7f…"

_CALIBRATION = {
    "fps": 61.4,
    "frame_ms": {"p50": 16.2, "p95": 16.9, "p99": 17.8},
    "stages_ms": {"start": {"p50": 0.4, "p95": 0.5, "p99": 0.9}},
    "frames": 60,
    "size": "1024x1024",
    "format": "nv12",
    "backend": "tensorrt",
    "model": "fast",
    "device": "Tesla T4",
    "verdict": "real time (60 fps, p99 33 ms)",
}

_READY = {
    "status": "ready",
    "problem": None,
    "backend": "tensorrt",
    "model": "fast",
    "device": "Tesla T4",
    "meanwhile": None,
    "build": None,
    "workers": ["idle", "busy"],
    "sandbox": {"network": True, "privileges": True, "files": True, "syscalls": True},
    "calibration": {"state": "done", **_CALIBRATION},
}

ANSWERS: dict[tuple[str, str, str], Any] = {
    ("get", "/jobs", "200"): {"jobs": [JOB]},
    ("post", "/jobs", "200"): {
        "dry_run": True,
        "input": {
            "width": 640,
            "height": 360,
            "codec": "h264",
            "container": "mov",
            "frames": 900,
            "frames_per_second": 30.0,
            "duration_seconds": 30.0,
            "bytes": 4_200_000,
        },
        "output": {"width": 2560, "height": 1440, "frames": 900, "codec": "libx264"},
        "estimated_fps": 61.4,
        "estimated_fps_from": "finished videos",
        "estimated_seconds": 14.7,
        "estimated_bytes": 41_472_000,
        "estimated_bytes_least": 13_824_000,
        "estimated_bytes_most": 124_416_000,
    },
    ("get", "/livez", "200"): {"status": "alive"},
    ("get", "/readyz", "200"): _READY,
    ("get", "/readyz", "503"): {
        **_READY,
        "status": "starting",
        "backend": None,
        "model": None,
        "device": None,
        "meanwhile": "onnxruntime",
        "build": {"what": "building the plan", "fraction": 0.42},
        "workers": ["building", "building"],
        "calibration": {"state": "waiting"},
    },
    ("get", "/model", "200"): {
        "engine": {"name": "tensorrt", "model": "fast", "device": "Tesla T4", "precision": "fp16"},
        "chain": {
            "dataset_sha256": _SHA,
            "checkpoint_sha256": _SHA,
            "weights_sha256": _SHA,
            "onnx_sha256": _SHA,
            "plan_sha256": _SHA,
        },
        "calibration": _CALIBRATION,
    },
    ("get", "/limits", "200"): {
        "max_picture_bytes": {
            "value": 33_554_432,
            "variable": "SR_MAX_PICTURE_BYTES",
            "over": "picture body; 413",
        }
    },
}
"""(method, path, status) -> the JSON of an answer."""

PARAMETERS: dict[str, Any] = {
    "job_id": JOB["id"],
    "name": "segment-00000.m4s",
    "model": "fast",
    "format": "mp4",
    "codec": "libx264",
    "quality": 18,
    "height": 1080,
    "size": "3840x2160",
    "strict": False,
    "best": False,
    "dry_run": True,
    "count": 20,
    "seconds": 3600,
    "idempotency-key": "holiday-2026-part-1",
}
"""Name of a parameter -> one that is good."""

_BODIES = {
    "/upscale": "--data-binary @in.png -H 'Content-Type: image/png' -o out.png ",
    "/jobs": "--data-binary @in.mp4 -H 'Content-Type: video/mp4' ",
}
_FILES = {
    "/jobs/{job_id}/result": "-o out.mp4 ",
    "/jobs/{job_id}/preview": "-o preview.jpg ",
    "/jobs/{job_id}/events": "-N ",
}


def curl_line(method: str, path: str) -> str:
    """How to call a route from a shell, with ``$URL`` and ``$JOB`` where they differ."""
    options = _BODIES.get(path, "-X POST ") if method == "post" else _FILES.get(path, "")
    if method not in ("get", "post"):
        options = f"-X {method.upper()} "
    address = path.replace("{job_id}", "$JOB").replace("{name}", str(PARAMETERS["name"]))
    return f'curl {options}"$URL{address}"'


def add_examples(path: str, method: str, operation: dict[str, Any]) -> None:
    """Puts the examples of one route into its part of an OpenAPI document."""
    line = f"Example: `{curl_line(method, path)}`"
    operation["description"] = f"{operation.get('description', '')}\n\n{line}".strip()
    for parameter in operation.get("parameters", []):
        if parameter["name"].lower() in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"].lower()]
    for status, answer in operation["responses"].items():
        example = ANSWERS.get((method, path, status))
        if example is not None:
            content = answer.setdefault("content", {}).setdefault("application/json", {})
            content["example"] = example
