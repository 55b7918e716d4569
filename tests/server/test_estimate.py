"""What a dry run says: from the header, the codec, the quality, and from what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from server.jobs.estimate import SPREAD, Throughput, estimate, estimate_bytes
from server.media.codecs import CODECS

PROBE: dict[str, Any] = {"width": 256, "height": 144, "frames": 300}
CALIBRATION = {"fps": 30.0, "size": "512x288"}


def finished(fps: float, codec: str = "libx264") -> dict[str, Any]:
    return {"fps": fps, "output": {"codec": codec, "width": 1024, "height": 576}}


@pytest.mark.parametrize("codec", CODECS)
def test_a_better_quality_takes_more_bytes_and_every_codec_has_its_own(codec: str) -> None:
    known = CODECS[codec]
    sizes = [
        estimate_bytes(codec, quality, 100, 1024, 576) for quality in range(known.max_quality + 1)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[known.default_quality] == estimate_bytes(codec, None, 100, 1024, 576)
    assert sizes[0] > 3 * sizes[known.default_quality] > 9 * sizes[-1]


@pytest.mark.parametrize(
    ("codec", "quality", "measured"),
    [
        ("libx264", 12, (0.122, 0.455)),
        ("libx264", 18, (0.052, 0.180)),
        ("libx264", 30, (0.010, 0.024)),
        ("libx265", 33, (0.007, 0.011)),
        ("libsvtav1", 28, (0.033, 0.090)),
        ("libsvtav1", 50, (0.005, 0.016)),
    ],
)
def test_what_was_measured_lies_in_the_range(
    codec: str, quality: int, measured: tuple[float, float]
) -> None:
    """Bits a pixel of the least and the most demanding clip of bench/result_size.py."""
    options = {"codec": codec, "quality": quality}
    made = estimate(PROBE, options, 1, None, Throughput())
    pixels = 300 * 1024 * 576
    least, most = (made[f"estimated_bytes_{name}"] * 8 / pixels for name in ("least", "most"))
    assert least < measured[0] < measured[1] < most


def test_the_time_comes_from_finished_videos_before_the_calibration() -> None:
    throughput = Throughput()
    unknown = estimate(PROBE, {}, 1, None, throughput)
    assert unknown["estimated_fps"] is unknown["estimated_seconds"] is None
    measured = estimate(PROBE, {}, 1, CALIBRATION, throughput)
    assert (measured["estimated_fps"], measured["estimated_seconds"]) == (120.0, 2.5)
    for fps in (1.0, 20.0, 90.0):
        throughput.add(finished(fps))
    known = estimate(PROBE, {}, 1, CALIBRATION, throughput)
    assert (known["estimated_fps"], known["estimated_fps_from"]) == (20.0, "finished videos")
    half = estimate(PROBE, {"height": 288}, 1, CALIBRATION, throughput)
    assert half["estimated_fps"] == 80.0
    other = estimate(PROBE, {"codec": "hevc"}, 1, CALIBRATION, throughput)
    assert other["estimated_fps_from"] == "calibration of the engine alone"


def test_without_a_count_of_frames_there_is_no_size_and_no_time() -> None:
    made = estimate({**PROBE, "frames": None}, {}, 1, CALIBRATION, Throughput())
    assert made["estimated_bytes"] is made["estimated_seconds"] is None
    assert made["estimated_fps"] == 120.0
    assert SPREAD > 1
