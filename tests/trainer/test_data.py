"""Folders as data sets: what is read, split and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.bicubic import downscale
from trainer.data import PictureSet, load_folder, picture_files
from trainer.errors import DataError


def write(path: Path, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def test_crops_of_one_source_picture_stay_on_one_side(tmp_path: Path) -> None:
    rows = ["file,repository,path"]
    for index in range(24):
        write(tmp_path / f"{index:02}.png", seed=index)
        rows.append(f"{index:02}.png,r,source{index // 3}.jpg")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    pictures = load_folder(tmp_path, 16, 2)
    held_out = {int(p.name[:2]) // 3 for p in pictures.validation}
    trained_on = {int(p.name[:2]) // 3 for p in pictures.train}
    assert len(held_out) == 2
    assert len(pictures.validation) == 6
    assert not held_out & trained_on


def test_adding_a_picture_does_not_reshuffle_the_split(tmp_path: Path) -> None:
    for index in range(12):
        write(tmp_path / f"{index:02}.png", seed=index)
    before = {p.name for p in load_folder(tmp_path, 16, 2).validation}
    write(tmp_path / "new.png", seed=99)
    after = {p.name for p in load_folder(tmp_path, 16, 2).validation}
    assert len(before & after) >= 1
    assert len(after) == 2


def test_at_most_a_quarter_is_held_out(pictures: PictureSet) -> None:
    assert len(load_folder(Path("tests/data/train_small"), 16, 16).validation) == 3


def test_lr_is_made_from_hr_cropped_to_a_multiple_of_four(tmp_path: Path) -> None:
    first = write(tmp_path / "a.png", 67, 70)
    write(tmp_path / "b.png", 64, 64, 1)
    pairs = load_folder(tmp_path, 16, 1)
    pair = next(p for p in pairs.train + pairs.validation if p.name == "a.png")
    assert pair.hr.shape == (3, 64, 68)
    expected = downscale(first[:64, :68])
    np.testing.assert_array_equal(pair.lr.permute(1, 2, 0).numpy(), expected)


def test_pairs_are_read_from_hr_and_lr_folders(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / "hr" / f"{index}.png", 64, 64, index)
        lr = write(tmp_path / "lr" / f"{index}.bmp", 16, 16, 10 + index)
    pairs = load_folder(tmp_path, 16, 1)
    pair = next(p for p in pairs.train + pairs.validation if p.name == "1.png")
    np.testing.assert_array_equal(pair.lr.permute(1, 2, 0).numpy(), lr)


@pytest.mark.parametrize("low", ["LR", "LRbicx4", "lr_x4", "LR_bicubic"])
def test_folders_named_as_benchmarks_do_are_pairs_too(tmp_path: Path, low: str) -> None:
    for index in range(2):
        write(tmp_path / "HR" / f"{index}.png", 128, 128, index)
        write(tmp_path / low / f"{index}.png", 32, 32, 10 + index)
    for other in ("LRbicx2", "LRbicx3"):
        write(tmp_path / other / "0.png", 64, 64)
    files = {str(hr.relative_to(tmp_path)): lr for hr, lr in picture_files(tmp_path).items()}
    assert files == {f"HR/{index}.png": tmp_path / low / f"{index}.png" for index in range(2)}


def test_low_resolution_files_may_end_in_x4(tmp_path: Path) -> None:
    for index, name in enumerate(("0801", "boxx4")):
        write(tmp_path / "HR" / f"{name}.png", 128, 128, index)
        write(tmp_path / "LR" / f"{name}x4.png", 32, 32, 10 + index)
    pairs = {hr.stem: low.stem for hr, low in picture_files(tmp_path).items() if low}
    assert pairs == {"0801": "0801x4", "boxx4": "boxx4x4"}
    write(tmp_path / "LR" / "0801.png", 32, 32)
    with pytest.raises(DataError, match=r"HR has no high-resolution picture for 0801x4\.png"):
        picture_files(tmp_path)


def test_a_folder_of_nothing_but_hr_is_one_of_pictures(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "0.png")
    assert picture_files(tmp_path) == {tmp_path / "HR" / "0.png": None}


def test_pictures_of_equal_names_in_folders_are_paired_by_their_folders(tmp_path: Path) -> None:
    for index, folder in enumerate(("a", "b")):
        write(tmp_path / "hr" / folder / "1.png", 64, 64, index)
        write(tmp_path / "lr" / folder / "1.bmp", 16, 16, 10 + index)
    files = picture_files(tmp_path)
    assert {hr.parent.name for hr in files} == {"a", "b"}
    for hr, low in files.items():
        assert low is not None
        assert low.parent.name == hr.parent.name


def test_pictures_of_unlike_folders_are_paired_by_their_names(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / "hr" / f"{index}.png", 64, 64, index)
        write(tmp_path / "lr" / "x4" / f"{index}.png", 16, 16, 10 + index)
    stems = [(hr.stem, low.stem) for hr, low in picture_files(tmp_path).items() if low]
    assert stems == [("0", "0"), ("1", "1")]


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"{index}.png", seed=index)
    first = load_folder(tmp_path, 16, 1).sha256
    assert load_folder(tmp_path, 16, 1).sha256 == first
    write(tmp_path / "1.png", seed=5)
    assert load_folder(tmp_path, 16, 1).sha256 != first


def text(path: Path) -> None:
    path.write_text("not a picture")


def sixteen_bit(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(path)


def one_missing(path: Path) -> None:
    folder = path.parent
    for index in range(2):
        write(folder / "hr" / f"{index}.png", 64, 64)
    write(folder / "lr" / "0.png", 16, 16)


def wrong_size(path: Path) -> None:
    folder = path.parent
    for index in range(2):
        write(folder / "hr" / f"{index}.png", 64, 64)
        write(folder / "lr" / f"{index}.png", 16, 18)


def lr_alone(path: Path) -> None:
    for index in range(6):
        write(path.parent / "lr" / f"{index}.png", 16, 16)
    write(path.parent / "hr" / "5.png", 64, 64)


def lr_without_hr(path: Path) -> None:
    for index in range(2):
        write(path.parent / "LR" / f"{index}.png", 96, 96)
        write(path.parent / "big" / f"{index}.png", 384, 384)


def hr_without_lr(path: Path) -> None:
    for index in range(2):
        write(path.parent / "hr" / f"{index}.png", 384, 384)
        write(path.parent / "small" / f"{index}.png", 96, 96)


def two_of_one_name(path: Path) -> None:
    for index in range(2):
        write(path.parent / "hr" / f"{index}.png", 64, 64)
        write(path.parent / "lr" / f"{index}.png", 16, 16)
    write(path.parent / "lr" / "1.bmp", 16, 16)


def one_lr_for_two(path: Path) -> None:
    write(path.parent / "hr" / "a" / "1.png", 64, 64)
    write(path.parent / "hr" / "b" / "1.png", 64, 64)
    write(path.parent / "lr" / "a" / "1.png", 16, 16)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "has no pictures"),
        (text, r"bad\.png cannot be read as a picture"),
        (lambda path: write(path, 40, 64), r"bad\.png is 64x40, smaller than a crop of 64"),
        (sixteen_bit, r"bad\.png has more than 8 bits a sample"),
        (lambda path: write(path), "holds one source picture"),
        (one_missing, r"no low-resolution picture for 1\.png; add it"),
        (lr_alone, r"hr has no high-resolution picture for 0\.png, 1\.png, 2\.png and 2 more; "),
        (lr_without_hr, "has a folder LR but none called hr; add it"),
        (hr_without_lr, "has a folder hr but none called lr; add it"),
        (two_of_one_name, r"lr/1\.bmp and .*lr/1\.png would be one picture; remove or rename one"),
        (one_lr_for_two, r"lr has no low-resolution picture for b/1\.png; add it"),
        (wrong_size, r"0\.png is 18x16 but .*0\.png is 64x64, not 4 times that"),
    ],
)
def test_bad_folders_get_a_sentence_that_names_the_file(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tmp_path / "bad.png")
    if (tmp_path / "bad.png").is_file() and "one source" not in message:
        write(tmp_path / "zgood.png")
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path, 16, 1)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_folder(Path("nowhere"), 16, 1)
