"""What a confined process cannot do any more, and that decoding needs none of it."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from server.media import decode_child, encode_child, landlock, syscall_filter
from server.media.sandbox import what_holds
from tests.reliability.figures import record

ROOT = Path(__file__).parents[3]

PROGRAM = """
import ctypes, json, mmap, os, signal, socket, sys, threading
from pathlib import Path
from server.media.sandbox import confine, isolate
folder = Path(sys.argv[1])
isolate()
held = confine([folder / "mine"], [folder / "output"])

def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False

def run_a_thread():
    thread = threading.Thread(target=lambda: done.append(1))
    thread.start()
    thread.join()

done = []
run_a_thread()
attempts = {
    "sibling": lambda: (folder / "sibling").read_bytes(),
    "listing": lambda: os.listdir(folder),
    "passwd": lambda: Path("/etc/passwd").read_bytes(),
    "environment": lambda: Path("/proc/self/environ").read_bytes(),
    "change": lambda: (folder / "mine").write_bytes(b"x"),
    "create": lambda: (folder / "new").write_bytes(b"x"),
    "remove": lambda: (folder / "sibling").unlink(),
    "rename": lambda: (folder / "mine").rename(folder / "sibling"),
    "socket": socket.socket,
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "program": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(os.getppid(), 0),
    "code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "namespace": lambda: refused_by_number(272, 0x10000000),
    "trace": lambda: refused_by_number(101, 16, os.getppid(), 0, 0),
    "ring": lambda: refused_by_number(425, 1, 0),
}

def refused_by_number(*numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*numbers) < 0:
        raise OSError(ctypes.get_errno(), "refused")

facts = {name: refused(attempt) for name, attempt in attempts.items()}
mine = (folder / "mine").read_text()
(folder / "output").write_text("written")
print(json.dumps({"held": held, "refused": facts, "mine": mine, "threads": len(done)}))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("confined")
    for name in ("mine", "sibling", "output"):
        (folder / name).write_text(name)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "output", "sibling"]
    assert (folder / "sibling").read_text() == "sibling"
    assert (folder / "output").read_text() == "written"
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_a_confined_process_does_its_own_work(facts: dict[str, Any]) -> None:
    assert facts["mine"] == "mine"
    assert facts["threads"] == 1


def test_a_confined_process_can_do_nothing_else(facts: dict[str, Any]) -> None:
    by_files = {"sibling", "listing", "passwd", "environment", "change", "create"}
    by_calls = set(facts["refused"]) - by_files
    expected = (by_files if facts["held"]["files"] else set()) | (
        by_calls if facts["held"]["syscalls"] else set()
    )
    refused = {name for name, refused in facts["refused"].items() if refused}
    record("refused to a child", f"{len(refused & expected)} of {len(expected)}")
    assert expected <= refused


WAITING = """
import sys, threading
from server.media.sandbox import confine, isolate
isolate()
confine()
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set())).start()
print("waiting", flush=True)
sys.exit(0 if ended.wait(1000) else 1)
"""


def test_a_confined_process_goes_on_waiting_after_it_was_stopped() -> None:
    """As with its container, or by ^Z."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        for _ in range(20):  # it may not have begun to wait at the first
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WEXITED | os.WNOWAIT)
        process.communicate("end\n")
    assert process.returncode == 0


def test_what_is_said_to_hold_is_what_this_kernel_has(facts: dict[str, Any]) -> None:
    assert facts["held"]["files"] == (landlock.version() > 0)
    held = what_holds()
    assert {name: held[name] for name in ("files", "syscalls")} == facts["held"]
    assert held["privileges"]


def test_a_system_without_either_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(syscall_filter.platform, "machine", lambda: "riscv64")
    held = what_holds()
    assert (held["files"], held["syscalls"]) == (False, False)


def test_everything_of_pyav_is_loaded_before_a_child_is_confined() -> None:
    assert decode_child.confine is encode_child.confine
    programs = ("av.__main__", "av.datasets")
    names = {module.name for module in pkgutil.walk_packages(av.__path__, "av.")}
    assert names - set(programs) <= set(sys.modules)
