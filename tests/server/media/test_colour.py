from __future__ import annotations

from server.media.colour import Colour


def test_an_unsaid_matrix_is_601_for_small_and_709_for_large_pictures() -> None:
    assert Colour().resolved(576).matrix_name == "bt601"
    assert Colour().resolved(720).matrix_name == "bt709"
    assert Colour(matrix=1).resolved(576).matrix_name == "bt709"
    assert Colour().resolved(100).full_range is False
    assert Colour(full_range=True).resolved(100).swscale_range == 2


def test_rgb_sources_are_written_as_limited_range_yuv() -> None:
    colour = Colour(matrix=0, full_range=True).resolved(1080, is_rgb=True)
    assert (colour.matrix, colour.full_range) == (1, False)


def test_hdr_and_matrices_that_cannot_be_converted_are_problems() -> None:
    assert Colour(transfer=16).problem == "HDR (PQ)"
    assert Colour(transfer=18).problem == "HDR (HLG)"
    assert Colour(matrix=8).problem == "colour matrix 8"
    assert Colour(matrix=9, transfer=14).problem is None
    assert Colour().problem is None
