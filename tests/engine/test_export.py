"""Exporting writes what PyTorch agrees with, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import ContractError
from engine.export import Variant, compare_with_torch, export_model
from engine.graph import build_graph
from engine.graph_check import check_graph
from tests.engine.fakes import noisy_model


def test_every_variant_is_written_under_its_own_name(tmp_path: Path) -> None:
    variants = [
        Variant("rgb24"),
        Variant("tensor"),
        Variant("nv12", "fp32", "bt601", True),
        Variant("nv12"),
    ]
    exported = export_model(noisy_model(), tmp_path / "made", variants)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "noisy.nv12-bt601-full.fp32.onnx",
        "noisy.nv12-bt709-limited.fp32.onnx",
        "noisy.rgb24.fp32.onnx",
        "noisy.tensor.fp32.onnx",
    ]
    for item, variant in zip(exported, variants, strict=True):
        assert check_graph(item.path.read_bytes()) == item.graph
        assert item.graph.format == variant.format
        assert item.max_difference <= 1


def test_a_graph_that_differs_from_torch_is_refused() -> None:
    model = noisy_model()
    other = build_graph(noisy_model(seed=1), "rgb24")
    with pytest.raises(ContractError, match="differs from PyTorch by up to"):
        compare_with_torch(model, other, Variant("rgb24"))


def test_the_wrong_matrix_is_noticed() -> None:
    model = noisy_model()
    graph = build_graph(model, "nv12", "fp32", "bt601")
    compare_with_torch(model, graph, Variant("nv12", "fp32", "bt601"))
    with pytest.raises(ContractError, match="differs from PyTorch"):
        compare_with_torch(model, graph, Variant("nv12", "fp32", "bt709"))


def test_nothing_is_left_behind_when_a_variant_fails(tmp_path: Path) -> None:
    model = noisy_model()
    model.weights["conv_out.weight"][0, 0, 0, 0] = 1000.0
    with pytest.raises(ContractError, match="does not fit fp16"):
        export_model(replace(model, name="huge"), tmp_path, [Variant("rgb24", "fp16")])
    assert list(tmp_path.iterdir()) == []
