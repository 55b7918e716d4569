"""Evaluation: the baseline, ensembles that leave an equivariant net alone, and flicker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.network import Network, NetworkConfig
from trainer.bicubic import downscale
from trainer.data import PictureSet
from trainer.errors import DataError
from trainer.evaluate import (
    bicubic_enlarge,
    enlarge_with,
    evaluate,
    moved,
    score,
    unmoved,
)
from trainer.flicker import ClipFrame, motion, read_frames, read_moments, score_clip, warp
from trainer.h264 import coded_copies, read_clip
from trainer.weights import load_network, save_weights


def network(seed: int) -> Network:
    made = Network(NetworkConfig(width=4, body=2), seed).eval()
    with torch.no_grad():
        made.conv_out.bias.add_(0.5)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("move", range(8))
def test_a_move_can_be_undone(move: int) -> None:
    x = torch.rand(1, 3, 5, 7)
    assert torch.equal(unmoved(moved(x, move), move), x)


def test_the_self_ensemble_turns_with_the_picture() -> None:
    enlarge = enlarge_with([network(1)], self_ensemble=True)
    alone = enlarge_with([network(1)])
    lr = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    for move in range(8):
        difference = moved(enlarge(lr), move).int() - enlarge(moved(lr, move)).int()
        assert int(difference.abs().max()) <= 1
    assert int((moved(alone(lr), 1).int() - alone(moved(lr, 1)).int()).abs().max()) > 1


def test_averaging_one_network_with_itself_changes_nothing() -> None:
    lr = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    one, two = enlarge_with([network(1)]), enlarge_with([network(1), network(1)])
    assert torch.equal(one(lr), two(lr))
    assert not torch.equal(one(lr), enlarge_with([network(1), network(2)])(lr))


def test_weights_are_evaluated_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network(3), path, "w", {})
    lr = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    assert torch.equal(enlarge_with([load_network(str(path))])(lr), enlarge_with([network(3)])(lr))


def test_bicubic_scores_stand_beside_ours_per_picture_and_as_means(pictures: PictureSet) -> None:
    pairs = pictures.validation
    perfect = {pair.lr.data_ptr(): pair.hr for pair in pairs}
    methods = {"bicubic": bicubic_enlarge, "perfect": lambda lr: perfect[lr.data_ptr()]}
    result = evaluate(methods, pairs)
    means = result["mean"]
    assert isinstance(means, dict)
    assert means["perfect"] == {"psnr_y_db": 100, "ssim_y": 1, "psnr_rgb_db": 100, "ssim_rgb": 1}
    assert 15 < means["bicubic"]["psnr_y_db"] < 40
    rows = result["pictures"]
    assert isinstance(rows, dict)
    by_hand = sum(row["bicubic"]["psnr_y_db"] for row in rows.values()) / len(pairs)
    assert means["bicubic"]["psnr_y_db"] == pytest.approx(by_hand, abs=1e-4)
    rgb = score(bicubic_enlarge(pairs[0].lr), pairs[0].hr)
    assert rgb.psnr_rgb_db < rgb.psnr_y_db


def scene(shift: int) -> np.ndarray:
    y, x = np.mgrid[:64, :96]
    x = x + shift
    waves = 128 + 50 * np.sin(x / 3) + 40 * np.cos(y / 4) + 20 * np.sin((x + y) / 7)
    return np.repeat(waves.clip(0, 255)[..., None], 3, 2).astype(np.uint8)


def test_motion_finds_how_far_a_scene_went_and_warp_follows_it() -> None:
    before, after = (torch.from_numpy(scene(s)[..., 0].astype(np.float32)) for s in (0, 5))
    shift = motion(before, after)
    assert (shift[0, 16:48, 16:64] == 0).all()
    assert (shift[1, 16:48, 16:64] == 5).all()
    warped = warp(before, shift)[:, :80]
    assert float((warped - after[:, :80]).abs().mean()) < 1


def test_a_method_that_shimmers_flickers_more_than_one_that_does_not() -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(lr: Tensor) -> Tensor:
        picture = bicubic_enlarge(lr).float()
        return (picture + 9 * torch.randn(picture.shape, generator=generator)).clamp(0, 255).byte()

    clip = [ClipFrame(scene(4 * i), downscale(scene(4 * i))) for i in range(3)]
    result = score_clip({"bicubic": bicubic_enlarge, "noisy": noisy}, iter(clip))
    flicker = {name: row["flicker_grey_levels"] for name, row in result.items()}
    assert flicker["hr"] < flicker["bicubic"] + 0.5
    assert flicker["noisy"] > flicker["bicubic"] + 3
    assert result["noisy"]["psnr_y_db"] < result["bicubic"]["psnr_y_db"] - 1
    with pytest.raises(DataError, match="at least two frames"):
        score_clip({}, iter(clip[:1]))


def test_a_coded_lr_clip_can_stand_for_the_reduced_one(tmp_path: Path) -> None:
    for index in range(3):
        for name, picture in (("hr", scene(index)), ("lr", downscale(scene(index)) // 2)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name / f"{index}.png")
    moments = list(read_moments(tmp_path / "hr", tmp_path / "lr", 9))
    assert len(moments) == 3
    np.testing.assert_array_equal(moments[1].lr, downscale(scene(1)) // 2)
    (tmp_path / "lr" / "2.png").unlink()
    with pytest.raises(DataError, match=r"lr has fewer frames than .*hr"):
        list(read_moments(tmp_path / "hr", tmp_path / "lr", 9))
    with pytest.raises(DataError, match=r"hr is 96x64, not a quarter of .*hr"):
        list(read_moments(tmp_path / "hr", tmp_path / "hr", 9))


def test_clips_are_folders_of_frames_or_videos(tmp_path: Path, data: Path) -> None:
    frames = list(read_frames(data / "train_small", 3))
    assert [frame.shape for frame in frames] == [(192, 192, 3)] * 3
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"no\.mp4 cannot be read as a video"):
        list(read_clip(tmp_path / "no.mp4", 2))
    assert len(coded_copies([scene(i) for i in range(5)], 20)) == 5
