"""What the package carries: trained weights, and the ONNX files made from exactly these."""

from __future__ import annotations

from engine.graph import build_graph
from engine.graph_check import check_graph
from engine.models import MODELS_DIR, NAMES, load_model


def test_fast_is_trained_and_knows_where_it_came_from() -> None:
    model = load_model("fast")
    assert {"dataset_sha256", "checkpoint_sha256", "recipe"} <= model.metadata.keys()


def test_shipped_weights_have_the_name_and_width_of_their_file() -> None:
    for path in MODELS_DIR.glob("*.safetensors"):
        assert path.stem in NAMES
        assert load_model(path.stem).metadata["name"] == path.stem


def test_shipped_onnx_files_are_those_of_the_shipped_weights() -> None:
    names = {path.name for path in MODELS_DIR.glob("*.onnx")}
    assert names == {"fast.rgb24.fp32.onnx", "fast.tensor.fp32.onnx"}
    for name in names:
        content = (MODELS_DIR / name).read_bytes()
        info = check_graph(content)
        assert content == build_graph(load_model("fast"), info.format), (
            f"{name} is stale: run sr-engine export fast --out engine/models"
        )
