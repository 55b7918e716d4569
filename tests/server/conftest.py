"""What several test files of the server need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(NearestBackend()) as opened:
        yield opened
