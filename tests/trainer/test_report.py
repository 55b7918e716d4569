"""The pages: self-contained, with every section, and honest about a wrong folder."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.augment import AUGMENTATIONS
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.errors import DataError, TrainerError
from trainer.loop import fit
from trainer.page import Section, write_page
from trainer.report import aerial_names, augmentation_section, report_folder, write_report
from trainer.survey import colourfulness, survey


def pictures_of(page: str) -> list[tuple[int, int]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == page.count("<img")
    return [Image.open(io.BytesIO(base64.b64decode(uri))).size for uri in found]


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def is_self_contained(page: str) -> bool:
    return not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", page)


def test_the_report_of_a_run_shows_all_that_was_asked_for(
    small: Callable[..., FitConfig], pictures: PictureSet, tmp_path: Path
) -> None:
    config = small(degradation="video")
    fit(config, pictures)
    out = tmp_path / "page" / "report.html"
    aerial = frozenset({"caliterra_0007.webp", "caliterra_0011.webp"})
    write_report(config.out, pictures, out, aerial)
    page = out.read_text()
    assert headings(page) == [
        "Scores", "Curves", "Before and after", "Where it is worst", "Gradients",
        "What each path does", "Edge direction", "Augmentation", "Degradation", "Recipe",
    ]  # fmt: skip
    assert is_self_contained(page)
    assert all(f"{name}: HR" in page for name in AUGMENTATIONS)
    assert "mean turn of edges on 2 aerial crops" in page
    assert "network.width" in page
    assert len(pictures_of(page)) > 40


def test_a_report_on_another_folder_is_refused(
    small: Callable[..., FitConfig], pictures: PictureSet, tmp_path: Path
) -> None:
    config = small()
    fit(config, pictures)
    other = tmp_path / "other"
    shutil.copytree(config.data, other)
    (other / "gb82_0004.webp").unlink()
    with pytest.raises(DataError, match=r"other is not what .*run was trained on"):
        report_folder(config.out, other, tmp_path / "r.html", lambda files, _: files)


def test_every_augmentation_is_pictured_by_a_draw_that_changes_the_crop(
    pictures: PictureSet,
) -> None:
    shown = [one for row in augmentation_section(pictures.train).rows for one in row]
    kept = shown[0]
    assert len(shown) == 2 * (1 + len(AUGMENTATIONS))
    for lr in shown[2::2]:
        assert lr.uri != kept.uri, lr.caption


def test_the_survey_of_a_data_set(data: Path, tmp_path: Path) -> None:
    survey(data / "train_small", tmp_path / "survey.html")
    page = (tmp_path / "survey.html").read_text()
    assert headings(page) == ["Sizes", "Sharpness", "Colour", "Hardest crops", "Dullest crops"]
    assert is_self_contained(page)
    assert "12 pictures, 12 of them measured" in page
    hardest, dullest = page.split("Hardest crops")[1].split("Dullest crops")
    assert hardest.index("synthetic_0021") < hardest.index("budgie_0046")
    assert "synthetic_0021" not in dullest


def test_the_survey_names_a_file_that_is_no_picture(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        survey(tmp_path, tmp_path / "survey.html")
    assert not (tmp_path / "survey.html").exists()


def test_aerial_pictures_are_those_of_the_manifest(tmp_path: Path) -> None:
    assert aerial_names(tmp_path) == frozenset()
    rows = "file,category,repository,path\na.png,aerial,r,p\nb.png,photo,r,q\n"
    (tmp_path / "manifest.csv").write_text(rows)
    assert aerial_names(tmp_path) == {"a.png"}
    (tmp_path / "manifest.csv").write_text("name\na.png\n")
    with pytest.raises(DataError, match=r"manifest\.csv has no column 'file'"):
        aerial_names(tmp_path)


def test_colourfulness_is_zero_for_grey_and_high_for_vivid_pictures() -> None:
    grey = torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8).expand(3, 9, 9)
    assert colourfulness(grey) == 0
    vivid = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (3, 40, 40)) * 255)
    assert colourfulness(vivid) > 100


def test_text_is_escaped_and_a_bad_folder_is_named(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", "<b>", "a & b", [Section("s", table=[("h",), ("<i>",)])])
    page = (tmp_path / "p.html").read_text()
    assert "<td>&lt;i&gt;</td>" in page
    assert "<th>h</th>" in page
    assert "<b>" not in page
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match="cannot be written"):
        write_page(tmp_path / "file" / "p.html", "t", "l", [])
