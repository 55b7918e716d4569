"""The model repository for Triton says what Triton's own protobuf definition wants to hear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from engine.__main__ import main
from engine.cache import write_plan
from engine.contract import GraphFormat
from engine.errors import ContractError, PlanError
from engine.graph import build_graph
from engine.plan import Plan, PlanKey, PlanRecord, Profile, sha256_hex
from engine.triton import onnx_model, plan_model, write_repository
from tests.engine.fakes import noisy_model

ONNX_TYPES = {"TYPE_UINT8": onnx.TensorProto.UINT8, "TYPE_FP32": onnx.TensorProto.FLOAT}
KEY = PlanKey("0" * 64, "tensorrt", "10.9.0.34", "12.8", "7.5", gpu_name="Tesla T4")


@pytest.fixture
def parse(data: Path) -> Any:
    """Text -> ``inference.ModelConfig``; raises where Triton's parser would."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto.FromString(
        (data / "triton" / "model_config.binpb").read_bytes()
    )
    pool.Add(file)
    wanted = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return lambda text: text_format.Parse(text, wanted())


def type_name(tensor: Any) -> str:
    return str(tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[
        tensor.data_type
    ].name)  # fmt: skip


def save(folder: Path, graph_format: GraphFormat, precision: Any = "fp32") -> Path:
    path = folder / f"noisy.{graph_format}.{precision}.onnx"
    path.write_bytes(build_graph(noisy_model(), graph_format, precision))
    return path


def save_plan(path: Path, key: PlanKey, content: bytes = b"plan") -> Path:
    record = PlanRecord(key, sha256_hex(content), len(content), model="fast")
    write_plan(path, Plan(record, content))
    return path


@pytest.mark.parametrize("graph_format", ["rgb24", "nv12", "tensor"])
def test_the_configuration_describes_the_graph_beside_it(
    graph_format: GraphFormat, tmp_path: Path, parse: Any
) -> None:
    source = save(tmp_path, graph_format, "fp16")
    (folder,) = write_repository(tmp_path / "repository", [source])
    config = parse((folder / "config.pbtxt").read_text())
    assert config.name == folder.name == f"noisy-{graph_format}-fp16"
    assert config.backend == "onnxruntime"
    file = folder / "1" / config.default_model_filename
    assert file.read_bytes() == source.read_bytes()
    graph = onnx.load(file).graph
    batch = 1 if config.max_batch_size else 0
    for described, real in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in described] == [value.name for value in real]
        for tensor, value in zip(described, real, strict=True):
            assert ONNX_TYPES[type_name(tensor)] == value.type.tensor_type.elem_type
            dims = [-1 if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
            assert list(tensor.dims) == dims[batch:]
    assert config.HasField("dynamic_batching") == (graph_format == "tensor")
    assert config.parameters["weights_sha256"].string_value == noisy_model().sha256


def test_a_name_with_quotes_stays_one_string(tmp_path: Path, parse: Any) -> None:
    odd = replace(onnx_model(save(tmp_path, "rgb24")), name='a "b" \\ ü')
    assert parse(odd.config()).name == 'a "b" \\ ü'


@pytest.mark.parametrize(
    ("graph_format", "inputs", "outputs"),
    [
        ("rgb24", [[36, 65, 3]], [[144, 260, 3]]),
        ("nv12", [[36, 65], [18, 33, 2]], [[144, 260], [72, 130, 2]]),
    ],
)
def test_a_static_plan_names_its_sizes(
    graph_format: str, inputs: list[list[int]], outputs: list[list[int]], tmp_path: Path, parse: Any
) -> None:
    key = replace(KEY, format=graph_format, profile=Profile.static(36, 65))
    (folder,) = write_repository(tmp_path / "r", [], [save_plan(tmp_path / "fast.plan", key)])
    config = parse((folder / "config.pbtxt").read_text())
    assert (config.backend, config.max_batch_size) == ("tensorrt", 0)
    assert [list(tensor.dims) for tensor in config.input] == inputs
    assert [list(tensor.dims) for tensor in config.output] == outputs
    assert {type_name(tensor) for tensor in config.input} == {"TYPE_UINT8"}
    assert (folder / "1" / "model.plan").read_bytes() == b"plan"


def test_a_dynamic_plan_leaves_height_and_width_open(tmp_path: Path) -> None:
    key = replace(KEY, format="nv12", profile=Profile((64, 64), (256, 256), (512, 512)))
    model = plan_model(save_plan(tmp_path / "fast.plan", key))
    assert [entry.dims for entry in model.inputs] == [(-1, -1), (-1, -1, 2)]
    assert [entry.dims for entry in model.outputs] == [(-1, -1), (-1, -1, 2)]


def test_a_plan_that_triton_cannot_load_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    plan = save_plan(tmp_path / "rtx.plan", replace(KEY, backend="tensorrt_rtx"))
    with pytest.raises(ContractError, match="--backend tensorrt"):
        write_repository(tmp_path / "repository", [save(tmp_path, "tensor")], [plan])
    assert not (tmp_path / "repository").exists()


def test_a_plan_whose_bytes_were_changed_is_refused(tmp_path: Path) -> None:
    plan = save_plan(tmp_path / "fast.plan", KEY)
    plan.write_bytes(b"nalp")
    with pytest.raises(PlanError):
        plan_model(plan)


def test_two_files_for_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [save(tmp_path, "rgb24"), save(tmp_path / "other", "rgb24")]
    with pytest.raises(ContractError, match="'noisy-rgb24-fp32'"):
        write_repository(tmp_path / "repository", files)


def test_the_command_writes_a_repository(
    tmp_path: Path, parse: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "repository"
    assert main(["export", "fast", "--triton", str(root), "--format", "tensor"]) == 0
    assert [path.name for path in root.iterdir()] == ["fast-tensor-fp32"]
    assert parse((root / "fast-tensor-fp32" / "config.pbtxt").read_text()).max_batch_size == 8
    assert "config.pbtxt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--triton FOLDER"),
        (["--out", "build/x", "--triton-plan", "a.plan"], "--triton-plan needs --triton"),
    ],
)
def test_a_command_without_a_folder_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "fast", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
