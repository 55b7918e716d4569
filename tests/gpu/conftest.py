"""A GPU for the tests that need one. Without it they are skipped, and say why.

With ``SR_TEST_GPU=1`` (``make test-gpu``) a skipped ``gpu`` test is a failure: see
``tests/conftest.py``. ``trt_gpu`` tests are only listed, with the library's own words.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.backends.cuda_driver import open_device
from engine.backends.cuda_thread import GpuThread
from engine.errors import BackendUnavailable


@pytest.fixture
def gpu() -> Iterator[GpuThread]:
    """The GPU's thread."""
    try:
        thread = GpuThread(open_device)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    yield thread
    thread.close()
