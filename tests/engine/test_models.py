"""Weights files: what is read, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ModelError
from engine.models import NAMES, load_model, parse_model, serialize, stand_in
from tests.engine.fakes import noisy_model


def written(path: Path, trained: str = "true", **metadata: str) -> Path:
    model = noisy_model()
    header = {"config": json.dumps(model.config.to_dict()), "trained": trained, "name": "x"}
    path.write_bytes(serialize(model.weights, header | metadata))
    return path


def test_a_weights_file_is_read_with_its_provenance(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.safetensors", dataset_sha256="ab")
    model = load_model(path)
    assert model.name == "mine"
    assert model.trained
    assert model.config == noisy_model().config
    assert model.metadata["dataset_sha256"] == "ab"
    np.testing.assert_array_equal(
        model.weights["body.1.bias"], noisy_model().weights["body.1.bias"]
    )


def test_untrained_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    path = written(tmp_path / "raw.safetensors", trained="false")
    with pytest.raises(ModelError, match=r"'raw' are untrained .* train it with sr-train fit"):
        load_model(path)
    assert not load_model(path, allow_untrained=True).trained


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_weights_of_its_width(name: str) -> None:
    widths = {"fast": 16, "balanced": 24, "quality": 32, "fast-video": 16}
    assert load_model(name, allow_untrained=True).config.width == widths[name]


def test_stand_ins_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib, engine.models as m; print(hashlib.sha256(m.stand_in('fast')).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert found == {parse_model(stand_in("fast"), "fast").sha256 + "\n"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "'nope' is not a model: name one of fast, balanced, quality, fast-video"),
        ("nope.safetensors", "cannot read the weights 'nope.safetensors': No such file"),
        (".", "'.' is not a model"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_files_are_refused(keep: int) -> None:
    with pytest.raises(ModelError, match="are not a safetensors file"):
        parse_model(stand_in("fast")[:keep], "cut")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "do not fit their config"),
        ('{"width": 6, "body": 3, "depth": 1}', "no usable network config"),
        ('{"width": 1}', "width must be >= 3"),
        ('{"width": "six"}', "no usable network config"),
        ("[1]", "no usable network config"),
        ("nonsense", "no usable network config"),
    ],
)
def test_impossible_configurations_are_refused(config: str, message: str) -> None:
    content = serialize(noisy_model().weights, {"config": config, "trained": "true"})
    with pytest.raises(ModelError, match=message):
        parse_model(content, "odd")


def test_wrong_shapes_types_and_nan_are_refused() -> None:
    good = noisy_model()
    metadata = {"config": json.dumps(good.config.to_dict()), "trained": "true"}
    broken = {
        "should be float32 .6,., got float32 .7,.": np.zeros(7, np.float32),
        "should be float32 .6,., got float64": np.zeros(6),
        "holds NaN or infinity": np.full(6, np.nan, np.float32),
    }
    for message, bias in broken.items():
        weights = good.weights | {"conv_in.bias": bias}
        with pytest.raises(ModelError, match=message):
            parse_model(serialize(weights, metadata), "odd")
