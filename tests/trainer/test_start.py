"""Going on from what ships: the commands of the model cards, and from any training form to any."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models import MODELS_DIR, NAMES
from engine.network import NetworkConfig
from trainer import checkpoint as ckpt
from trainer.__main__ import main
from trainer.blocks import BlockConfig, TrainingNetwork, fuse
from trainer.errors import CheckpointError
from trainer.start import network_of, start
from trainer.weights import load_network

ROOT = Path(__file__).parents[2]
STATES = ROOT / "trainer" / "states"
COMMANDS = re.findall(
    "^sr-train (fit .*--start-from.*)$", (ROOT / "docs" / "model-cards.md").read_text(), re.M
)
FORMS = [
    BlockConfig(),
    BlockConfig(branches="plain", weight_norm=False),
    BlockConfig(branches="rich", weight_norm=False),
]


def test_the_cards_give_a_command_for_every_state() -> None:
    assert {state.stem for state in STATES.iterdir()} == set(NAMES)
    named = [re.findall(r"states/(\S+)\.safetensors", command) for command in COMMANDS]
    assert sorted(named) == sorted([name] for name in NAMES)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_of_the_cards_goes_on_from_a_shipped_state(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [str(data / "train_small") if w == "DIR" else w for w in shlex.split(command)]
    short = ["--iterations", "1", "--batch", "1", "--patch", "8", "--device", "cpu"]
    main([*words, *short, "--precision", "fp32", "--out", str(tmp_path), "--no-html"])
    saved = ckpt.load(tmp_path / "checkpoint.safetensors")
    history = saved.facts["history"]
    assert isinstance(history, list)
    assert history[-1]["psnr_y_db"] > 24  # random weights are far below


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS, ids=["rep", "plain", "rich"])
def test_a_shipped_state_starts_any_training_form_with_the_shipped_outputs(
    name: str, form: BlockConfig
) -> None:
    shipped = load_network(name)
    network = TrainingNetwork(shipped.config, form, seed=3)
    start(network, STATES / f"{name}.safetensors")
    for ours, theirs in zip(fuse(network).parameters(), shipped.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_is_measured_like_the_weights_that_were_made_from_it() -> None:
    ours, theirs = network_of(str(STATES / "fast.safetensors")), load_network("fast")
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], atol=1e-5, rtol=1e-5)


def test_a_file_that_is_no_checkpoint_is_not_to_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_bytes(b"neither weights nor a checkpoint")
    with pytest.raises(CheckpointError, match=r"notes.* give another checkpoint, or weights$"):
        start(TrainingNetwork(NetworkConfig(), BlockConfig()), path)
    with pytest.raises(ModelError, match="notes"):
        network_of(str(path))


def test_the_message_names_the_width_that_is_there() -> None:
    network = TrainingNetwork(NetworkConfig(), BlockConfig())
    for path in (STATES / "quality.safetensors", MODELS_DIR / "quality.safetensors"):
        with pytest.raises(CheckpointError, match=r"quality.* give --network\.width 32$"):
            start(network, path)


def test_a_file_that_is_not_what_it_says_is_named(tmp_path: Path) -> None:
    network = TrainingNetwork(NetworkConfig(), BlockConfig())
    saved = ckpt.load(STATES / "fast.safetensors")
    path = tmp_path / "odd.safetensors"
    recipe = saved.facts["recipe"]
    assert isinstance(recipe, dict)
    for spoilt in (
        {},
        recipe | {"network": {"width": 20}},
        recipe | {"block": {"branches": 3, "x": 1}},
    ):
        ckpt.save(ckpt.Checkpoint(saved.tensors, saved.facts | {"recipe": spoilt}), path)
        with pytest.raises(CheckpointError, match=r"odd\.safetensors does not hold the network"):
            start(network, path)
