from __future__ import annotations

import pytest

from server.media.codecs import CODECS, check_codec_size, encoder_options, find_codec
from server.media.encode import usable_codecs
from server.media.errors import CodecUnavailable


def test_an_unknown_codec_is_refused_with_those_there_are() -> None:
    with pytest.raises(CodecUnavailable, match="libx264, libx265, libsvtav1"):
        find_codec("wmv")
    assert find_codec("hevc").encoder == "libx265"


def test_a_size_that_a_codec_cannot_hold_is_refused_with_the_codecs_that_can() -> None:
    with pytest.raises(CodecUnavailable, match=r"h264_nvenc cannot hold 5120x2880.*hevc_nvenc"):
        check_codec_size(CODECS["h264_nvenc"], 5120, 2880)
    with pytest.raises(CodecUnavailable, match="use one of libx264, libsvtav1"):
        check_codec_size(CODECS["libx265"], 4, 4)
    with pytest.raises(CodecUnavailable, match="make the output smaller"):
        check_codec_size(CODECS["libx264"], 40000, 40000)
    check_codec_size(CODECS["libx264"], 4096, 4096)


def test_quality_outside_the_range_of_the_codec_is_refused() -> None:
    x264 = CODECS["libx264"]
    with pytest.raises(CodecUnavailable, match="0 \\(best\\) to 51, not 60"):
        encoder_options(x264, quality=60, preset=None, pace="file", gop_frames=10)
    options = encoder_options(x264, quality=0, preset=None, pace="real_time", gop_frames=0)
    assert options["crf"] == "0"
    assert options["preset"] == "ultrafast"
    assert options["g"] == "1"


def test_encoders_are_probed_by_encoding_a_frame() -> None:
    usable = usable_codecs()
    assert set(usable) == set(CODECS)
    for name in ("libx264", "libx265", "libsvtav1"):
        assert usable[name] is None
    for name, reason in usable.items():
        assert reason is None or name.endswith("_nvenc")
