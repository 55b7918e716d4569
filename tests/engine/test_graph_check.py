"""Every rule of the contract, broken one at a time."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import ModelProto, helper

from engine.errors import ContractError
from engine.graph import build_graph
from engine.graph_check import check_graph
from tests.engine.fakes import noisy_model


def _opset(model: ModelProto) -> None:
    model.opset_import[0].version = 18


def _rename(model: ModelProto) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "frame":
                node.input[index] = "image"
    model.graph.input[0].name = "image"


def _fixed_size(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1024


def _bytes_transposed(model: ModelProto) -> None:
    nodes = model.graph.node
    nodes[0].input[0] = "turned"
    nodes.insert(0, helper.make_node("Transpose", ["frame"], ["turned"], perm=[1, 0, 2]))


def _without(operator: str) -> Callable[[ModelProto], None]:
    def remove(model: ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == operator)
        for other in model.graph.node:
            for index, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[index] = node.input[0]
        model.graph.node.remove(node)

    return remove


def _schema(model: ModelProto) -> None:
    next(p for p in model.metadata_props if p.key == "schema").value = "2"


BROKEN = {
    "uses operator sets": _opset,
    "fit none of rgb24, nv12, tensor": _rename,
    "has a fixed size": _fixed_size,
    "'frame' touches Transpose: only Cast may": _bytes_transposed,
    "found Clip instead of Round": _without("Round"),
    "found Conv instead of Clip": _without("Clip"),
    "metadata schema 2": _schema,
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rule_is_named(message: str) -> None:
    model = onnx.load_from_string(build_graph(noisy_model(), "rgb24"))
    BROKEN[message](model)
    with pytest.raises(ContractError, match=message) as caught:
        check_graph(model.SerializeToString())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100])
def test_what_is_not_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(ContractError, match=r"not a valid ONNX file|fit none of|operator sets"):
        check_graph(content)
