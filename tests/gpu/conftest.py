"""A GPU for the tests that need one. Without it they are skipped, and say why.

With ``SR_TEST_GPU=1`` (``make test-gpu``) a skipped ``gpu`` test is a failure: see
``tests/conftest.py``. ``trt_gpu`` tests are only listed, with the library's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.cuda_driver import open_device
from engine.backends.cuda_thread import GpuThread
from engine.errors import BackendUnavailable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shows what CUDA's libraries warn of on some card, where other tests would fail: it comes
    from C++ destructors too, in which an error has nowhere to go."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def gpu() -> Iterator[GpuThread]:
    """The GPU's thread."""
    try:
        thread = GpuThread(open_device)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    yield thread
    thread.close()
