"""The GPU's own thread: order, errors that stick, and an end that leaves nothing behind."""

from __future__ import annotations

import threading

import pytest

from engine.backends.cuda_thread import GpuThread
from engine.errors import BackendUnavailable, ContractError, EngineFault, OutOfMemory
from tests.engine.fake_cuda import FakeCuda


def test_work_runs_in_order_on_a_thread_of_its_own() -> None:
    thread = GpuThread(FakeCuda)
    order = [thread.call(lambda device, n=n: (n, threading.get_ident())) for n in range(5)]
    assert [number for number, _ in order] == list(range(5))
    assert {ident for _, ident in order}.isdisjoint({threading.get_ident()})
    thread.close()


def test_what_opening_raises_is_raised_to_the_caller() -> None:
    def refuse() -> FakeCuda:
        raise BackendUnavailable("no driver")

    with pytest.raises(BackendUnavailable, match="no driver"):
        GpuThread(refuse)


def test_a_cuda_error_sticks_and_others_do_not() -> None:
    thread = GpuThread(FakeCuda)

    def fail(error: Exception) -> None:
        def work(device: object) -> None:
            raise error

        with pytest.raises(type(error)):
            thread.call(work)

    fail(OutOfMemory("no room"))
    fail(ContractError("wrong frame"))
    assert thread.call(lambda device: 1) == 1
    fail(EngineFault("illegal address"))
    with pytest.raises(EngineFault, match="failed earlier: illegal address"):
        thread.call(lambda device: 1)
    thread.close()


def test_closing_takes_the_context_off_the_thread() -> None:
    thread = GpuThread(FakeCuda)
    device = thread.call(lambda device: device)
    thread.close()
    thread.close()
    assert device.closed  # type: ignore[attr-defined]
    with pytest.raises(EngineFault, match="closed"):
        thread.call(lambda device: 1)


def test_callers_racing_with_the_end_get_an_answer_or_an_error() -> None:
    thread = GpuThread(FakeCuda)
    answers: list[object] = []

    def ask() -> None:
        try:
            while True:
                answers.append(thread.call(lambda device: 1))
        except EngineFault as error:
            answers.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    thread.call(lambda device: None)
    thread.close()
    for asker in askers:
        asker.join(timeout=30)
    assert not any(asker.is_alive() for asker in askers)
    assert sum(isinstance(answer, EngineFault) for answer in answers) == 4
