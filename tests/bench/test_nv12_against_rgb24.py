"""The comparison of formats: nv12 loses no quality on a picture with a ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.nv12_against_rgb24 import main
from engine.gate_frames import natural_frames


def test_nv12_is_as_good_as_rgb24(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "HR").mkdir()
    (tmp_path / "LRbicx4").mkdir()
    for name, small in list(natural_frames(96, 96))[:5]:
        large = np.array(Image.fromarray(small).resize((384, 384), Image.Resampling.BICUBIC))
        Image.fromarray(large).save(tmp_path / "HR" / f"{name}.png")
        Image.fromarray(small).save(tmp_path / "LRbicx4" / f"{name}x4.png")
    arguments = ["--pictures", str(tmp_path), "--sizes", "16", "--repeats", "1", "--threads", "1"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    differences = [row["nv12"] - row["rgb24"] for row in result["psnr_y_db"].values()]
    assert len(differences) == 5
    assert abs(np.mean(differences)) <= 0.05
    assert result["median_ms"]["16"].keys() == {"rgb24", "nv12", "ratio"}
