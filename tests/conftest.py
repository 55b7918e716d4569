"""Rules that hold for every test: no chance, no leaking seeds, and no silent skips under CI."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

DATA = Path(__file__).with_name("data")

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")

STRICT = os.environ.get("SR_TEST_STRICT") == "1"
"""Any skipped test but one that needs a GPU is a failure."""

GPU_EXPECTED = os.environ.get("SR_TEST_GPU") == "1"
"""A skipped ``gpu`` test is a failure too (``trt_gpu`` ones are only listed)."""


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """Every test starts from the same seeds and leaves the generators as it found them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    random.seed(0)
    np.random.seed(0)
    if torch:
        torch.manual_seed(0)
    yield
    # A codec that a test opened may have left this thread with real-time priority.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    if torch:
        torch.set_rng_state(torch_state)


@pytest.fixture
def data() -> Path:
    """The small pictures and clips that come with the repository."""
    return DATA


def skip_is_failure(
    markers: set[str], *, strict: bool = STRICT, gpu_expected: bool = GPU_EXPECTED
) -> bool:
    """Whether skipping a test that carries ``markers`` must fail the run."""
    if "trt_gpu" in markers:
        return False
    if "gpu" in markers:
        return gpu_expected
    return strict


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pytest sends the report in
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail(report, {mark.name for mark in item.iter_markers()})
    return report  # type: ignore[return-value]  # and wants it back


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: pytest.CollectReport = yield  # type: ignore[assignment]  # pytest sends the report in
    if report.skipped:
        _fail(report, {mark.name for mark in collector.iter_markers()})
    return report  # type: ignore[return-value]  # and wants it back


def _fail(report: pytest.TestReport | pytest.CollectReport, markers: set[str]) -> None:
    if skip_is_failure(markers):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which is not allowed here: {reason}"
