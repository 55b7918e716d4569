"""Ablations: resumable runs, and a table that claims no more than was seen."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.network import NetworkConfig
from trainer.ablate import (
    AblateConfig,
    ablate,
    result_path,
    run_one,
    write_json,
    write_table,
)
from trainer.ablation_rows import ROWS
from trainer.ablation_table import verdict
from trainer.blocks import BlockConfig
from trainer.config import OptimiserConfig
from trainer.data import PictureSet
from trainer.device import choose_device, machine, processor
from trainer.errors import Interrupted, TrainerError
from trainer.loop import Hooks
from trainer.variants import HalfResolutionNetwork, rotate

BY_KEY = {row.key: row for row in ROWS}
SHA256 = "5" * 64
NO_PICTURES = PictureSet([], [], SHA256)


def config_in(tmp_path: Path, data: Path, **changes: object) -> AblateConfig:
    base = AblateConfig(
        data / "train_small",
        tmp_path / "runs",
        tmp_path / "docs" / "ablations.md",
        iterations=2,
        batch=2,
        patch=16,
        seeds=2,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def keep(config: AblateConfig, key: str, *values: float | None) -> None:
    """Results as if they had been run; None is a run that diverged."""
    for seed, value in enumerate(values):
        result: dict[str, object] = {"iterations": config.iterations, "psnr_y_db": value}
        if value is None:
            result = {"iterations": 7, "diverged_at": 7}
        result["recipe"] = config.run_of(BY_KEY[key], seed).recipe()
        result["dataset_sha256"] = SHA256
        write_json(result_path(config, BY_KEY[key], seed), result)


def facts_of(result: bytes) -> dict[str, object]:
    facts: dict[str, object] = json.loads(result)
    assert facts.pop("date")
    return facts


def line_of(config: AblateConfig, key: str) -> str:
    write_table(config, NO_PICTURES)
    title = BY_KEY[key].title
    return next(x for x in config.table.read_text().splitlines() if x.startswith(f"| {title} |"))


def test_rows_stand_in_the_order_of_the_issue_and_have_valid_recipes(
    tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data)
    assert [row.key for row in ROWS] == [
        "baseline", "no-gv", "no-weight-norm", "plain", "rich", "edge", "no-lookahead", "no-mse",
        "ssim", "ssim-smooth-l1", "ssim-sobel", "any-rotation", "cutmix", "cutblur", "cutout",
        "mixup", "cutmixup", "blend", "no-rgb", "skip-3", "skip-4", "half", "leaky", "rate",
        "soap", "soap-plain", "busy",
    ]  # fmt: skip
    recipes = {json.dumps(config.run_of(row, 0).recipe()) + row.trainer.__name__ for row in ROWS}
    assert len(recipes) == len(ROWS)
    assert all(config.run_of(row, 0).network.width == 16 for row in ROWS)


def test_what_has_a_result_is_not_run_again(
    tmp_path: Path, data: Path, pictures: PictureSet
) -> None:
    config = config_in(tmp_path, data, only=("leaky",), seeds=1)
    config.out.mkdir()
    half = config.out / ".leaky-0.json.2147483647.tmp"  # of a process that was killed
    half.write_text("{half")
    lines = list(ablate(config, pictures))
    assert not half.exists()
    assert [line.split(",")[0] for line in lines] == ["baseline", "leaky"]
    assert (config.out / "baseline-0" / "weights.safetensors").is_file()  # for seed averaging
    kept = result_path(config, BY_KEY["leaky"], 0)
    before = kept.read_bytes()
    steps: list[int] = []
    assert list(ablate(config, pictures, Hooks(on_step=lambda s, row: steps.append(s)))) == lines
    assert not steps
    kept.unlink()
    assert list(ablate(config, pictures)) == lines
    assert facts_of(kept.read_bytes()) == facts_of(before)
    page = config.table.read_text()
    assert "| LeakyReLU | 2 | 1 |" in page
    assert "| without weight norm | not run |" in page


def test_a_stopped_run_leaves_no_result(tmp_path: Path, data: Path, pictures: PictureSet) -> None:
    config = config_in(tmp_path, data, only=("plain",))
    with pytest.raises(Interrupted):
        list(ablate(config, pictures, Hooks(stop=lambda: True)))
    assert not list(config.out.glob("*.json"))
    assert (config.out / "baseline-0" / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize("key", ["any-rotation", "half"])
def test_the_variants_train(key: str, tmp_path: Path, data: Path, pictures: PictureSet) -> None:
    config = config_in(tmp_path, data)
    row = BY_KEY[key]
    result = run_one(row, config.run_of(row, 0), pictures, Hooks())
    assert result["iterations"] == 2
    assert result["psnr_y_db"] > 3


def test_divergence_is_a_result(tmp_path: Path, data: Path, pictures: PictureSet) -> None:
    config = config_in(tmp_path, data)
    wild = OptimiserConfig(learning_rate=1e30, warmup_iterations=1, gradient_clip=1e30)
    run = replace(config.run_of(ROWS[0], 0), optimiser=wild, iterations=20)
    result = run_one(ROWS[0], run, pictures, Hooks())
    assert 0 < result["diverged_at"] < 20


def test_differences_below_two_standard_deviations_are_not_claimed(
    tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data, seeds=3)
    keep(config, "baseline", 30.00, 30.02, 30.04)
    keep(config, "leaky", 30.01, 30.03, 30.05)
    keep(config, "rich", 30.30, 30.32, 30.34)
    keep(config, "no-weight-norm", None, 29.9, None)
    assert "no difference seen (+0.010 dB, sd 0.020)" in line_of(config, "leaky")
    assert "30.320 ± 0.020 | +0.300 dB |" in line_of(config, "rich")
    assert "not finite at iteration 7, 7; " in line_of(config, "no-weight-norm")
    assert line_of(config, "cutmix").endswith("| not run | | | |")
    keep(config, "plain", 30.0)
    assert "too few seeds to judge" in line_of(config, "plain")


@pytest.mark.parametrize("name", ["iterations", "batch", "patch"])
def test_runs_of_another_length_batch_or_crop_do_not_count(
    name: str, tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data)
    keep(config, "leaky", 30.0, None)
    assert "| LeakyReLU | 7 | 2 | 30.000 |" in line_of(config, "leaky")
    other = replace(config, **{name: getattr(config, name) + 1})
    assert "not run" in line_of(other, "leaky")


def test_results_of_another_recipe_or_of_other_pictures_do_not_count(
    tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data)
    keep(config, "leaky", 30.0)
    assert "| LeakyReLU | 2 | 1 | 30.000 |" in line_of(config, "leaky")
    write_table(config, replace(NO_PICTURES, sha256="6" * 64))
    assert "| LeakyReLU | not run |" in config.table.read_text()
    kept = result_path(config, BY_KEY["leaky"], 0)
    result = json.loads(kept.read_text())
    result["recipe"]["optimiser"]["learning_rate"] = 0.5
    write_json(kept, result)
    assert "| LeakyReLU | not run |" in line_of(config, "leaky")


def test_results_of_other_pictures_are_refused_before_anything_runs(
    tmp_path: Path, data: Path, pictures: PictureSet
) -> None:
    config = config_in(tmp_path, data, only=("leaky",))
    keep(config, "leaky", 30.0)
    kept = result_path(config, BY_KEY["leaky"], 0)
    before = kept.read_bytes()
    message = r"leaky-0\.json is of another run \(the pictures differ\); choose another --out"
    with pytest.raises(TrainerError, match=message):
        next(ablate(config, pictures))
    longer = replace(config, iterations=3, out=config.out)
    with pytest.raises(TrainerError, match=r"leaky-0\.json is of another .*iterations differ"):
        next(ablate(longer, NO_PICTURES))
    assert kept.read_bytes() == before
    assert [path.name for path in config.out.iterdir()] == [kept.name]


def test_a_result_of_an_older_trainer_counts_with_todays_defaults(
    tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data, machine="an abacus")
    keep(config, "leaky", 30.0)
    kept = result_path(config, BY_KEY["leaky"], 0)
    result = json.loads(kept.read_text())
    for added in ("ensemble_share", "ensemble_teacher", "crop_candidates", "degradation"):
        del result["recipe"][added]
    write_json(kept, result)
    os.utime(kept, (1_700_000_000, 1_700_000_000))
    assert "| LeakyReLU | 2 | 1 | 30.000 |" in line_of(config, "leaky")
    assert "Runs: 2023-11-14, on an abacus." in config.table.read_text()


def test_the_table_says_on_what_it_was_made_where_and_when(
    tmp_path: Path, data: Path, pictures: PictureSet
) -> None:
    config = config_in(tmp_path, data, only=("leaky",), seeds=1)
    list(ablate(config, pictures))
    day = json.loads(result_path(config, BY_KEY["leaky"], 0).read_text())["date"]
    text = " ".join(config.table.read_text().split())
    assert (
        "Data: `data/train_small`, 10 pictures to train on and 2 held out, sha256 "
        f"`{pictures.sha256}`." in text
    )
    run = config.run_of(ROWS[0], 0)
    named = re.escape(machine(run, choose_device(run)))
    assert re.search(rf"Runs: ([\d-]+ to )?{day}, on {named}\.", text)


def test_a_processor_is_named_or_at_least_its_architecture(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Zilog Z80: fast\n")
    assert processor(cpuinfo) == "Zilog Z80: fast"
    assert processor(tmp_path / "none") == platform.machine()


def test_every_seed_that_was_run_counts_however_many_are_asked_for(
    tmp_path: Path, data: Path
) -> None:
    config = config_in(tmp_path, data, seeds=3)
    keep(config, "baseline", 30.00, 30.02, 30.04)
    assert "| 3 | 30.020 ± 0.020 |" in line_of(replace(config, seeds=1), "baseline")


def test_the_verdict_is_symmetric() -> None:
    assert verdict([1.0, 1.1], [2.0, 2.1]) == "-1.000 dB"
    assert verdict([2.0, 2.1], [1.0, 1.1]) == "+1.000 dB"


def test_unknown_rows_and_damaged_results_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="--only nothing is not a row; there are baseline"):
        config_in(tmp_path, data, only=("nothing",))
    config = config_in(tmp_path, data)
    path = result_path(config, ROWS[0], 0)
    path.parent.mkdir()
    odd = {"recipe": {}, "iterations": 2}
    for content in ("{half", "[]", "{}", '{"recipe": {}}', json.dumps(odd)):
        path.write_text(content)
        with pytest.raises(TrainerError, match=r"baseline-0\.json is not a result"):
            write_table(config, NO_PICTURES)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7)])
def test_the_half_resolution_trunk_keeps_any_size(height: int, width: int) -> None:
    network = HalfResolutionNetwork(NetworkConfig(width=4, body=2), BlockConfig())
    x = torch.rand(1, 3, height, width)
    assert network(x).shape == (1, 3, 4 * height, 4 * width)


def test_interpolated_rotation_turns_lr_and_hr_alike() -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    smooth = (100 + 8 * x + 3 * y)[None, None].expand(3, 3, -1, -1)
    hr = torch.nn.functional.interpolate(smooth, scale_factor=4, mode="bilinear")
    batch = smooth.round().byte(), hr.round().byte()
    lr, turned = rotate(batch, torch.Generator().manual_seed(0))
    box = torch.nn.functional.avg_pool2d(turned.float(), 4)
    assert float((box - lr).abs().mean()) < 2
    assert float((lr.float() - batch[0].float()).abs().mean()) > 5
