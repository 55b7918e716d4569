"""Choosing a backend and a model."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine.backends.winograd_library
import engine.models
from engine.errors import BackendUnavailable, ModelError
from engine.selection import cpu_backend_name, open_backend


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the TensorRT modules impossible to import, as on a machine without them."""
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)


@pytest.mark.usefixtures("no_tensorrt")
def test_auto_takes_the_cpu_and_says_why_tensorrt_does_not_run() -> None:
    with open_backend("auto", "auto", threads=1, allow_untrained=True) as backend:
        info = backend.info
    assert (info.name, info.model) == ("winograd", "fast")
    assert cpu_backend_name() == "winograd"
    assert "tensorrt" in info.detail["reason"]
    assert "model auto: fast" in info.detail["reason"]


@pytest.mark.usefixtures("no_tensorrt")
def test_auto_takes_onnxruntime_where_the_kernels_were_not_compiled_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.backends.winograd_library, "LIBRARY", tmp_path / "winograd.so")
    with open_backend("auto", "auto", threads=1, allow_untrained=True) as backend:
        info = backend.info
    assert (info.name, info.model) == ("onnxruntime", "fast")
    assert cpu_backend_name() == "onnxruntime"
    assert "winograd: its C library was not compiled" in info.detail["reason"]
    with pytest.raises(BackendUnavailable, match="install a C compiler, then sr-server again"):
        open_backend("winograd", "fast", allow_untrained=True)


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_an_explicit_choice_never_falls_back(name: str) -> None:
    with pytest.raises(BackendUnavailable, match="not installed"):
        open_backend(name, "fast", allow_untrained=True)


def test_a_named_backend_is_used_and_says_so() -> None:
    with open_backend("onnxruntime", "balanced", threads=1, allow_untrained=True) as backend:
        assert backend.info.model == "balanced"
        assert backend.info.detail["reason"] == "asked for by name"
    with open_backend("nearest") as backend:
        assert backend.info.name == "nearest"


def test_an_unknown_backend_is_named_with_the_choices() -> None:
    with pytest.raises(BackendUnavailable, match="unknown backend 'cuda': use one of auto, wino"):
        open_backend("cuda")


def test_untrained_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.models, "MODELS_DIR", tmp_path)
    with pytest.raises(ModelError, match="untrained"):
        open_backend("onnxruntime", "fast")
