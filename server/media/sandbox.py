"""What a media child gives up before it looks at user bytes. Linux only; each step is best effort.

Decoders are the part of any video service that attackers reach first. The child that runs them
has no network, cannot gain privileges, sees no file but its own, cannot create any, can make only
the system calls that decoding needs, and has caps on memory, descriptors and processor time.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from server.media import landlock, syscall_filter

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_SYS_NICE = 1 << 23


def isolate() -> dict[str, bool]:
    """Gives up the network and any way to more privileges, for good.

    Must be called while the process has one thread: a user without privileges can only leave the
    network by way of a user namespace of its own, and that is refused to a threaded process.

    Returns:
        Which of ``network`` and ``privileges`` are really cut off.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    network = libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    _keep_ordinary_priority(libc)
    privileges = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return {"network": network, "privileges": privileges}


def confine(reads: Iterable[Path] = (), writes: Iterable[Path] = ()) -> dict[str, bool]:
    """Gives up every file but these and every system call that media work does not need, for good.

    Must be called while the process has one thread, after everything is imported and ``limit``.

    Args:
        reads: what can still be read: files, and directories with all that is in them.
        writes: files that can still be read and changed; they must be there.

    Returns:
        Which of ``files`` and ``syscalls`` are really cut off.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it only root may go on
    files = landlock.see_only(reads, writes)
    return {"files": files, "syscalls": syscall_filter.install()}


def what_holds() -> dict[str, bool]:
    """What ``isolate`` and ``confine`` really cut off on this machine, tried in a fork.

    Call it before the process starts a thread.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, json.dumps({**isolate(), **confine()}).encode())
        os._exit(0)
    os.close(writing)
    content = os.read(reading, 4096)
    os.close(reading)
    os.waitpid(pid, 0)
    return {name: bool(held) for name, held in json.loads(content or b"{}").items()}


def _keep_ordinary_priority(libc: ctypes.CDLL) -> None:
    """Gives up the right to real-time scheduling.

    SVT-AV1 takes SCHED_FIFO at the highest priority for its threads and for the one that opens it
    whenever it may, which root may: two cores then serve nobody else until it is done.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable sets, the lower 32 capabilities and then the upper.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for index in range(3):
            sets[index] &= ~_CAP_SYS_NICE
        libc.capset(header, sets)


def limit(*, memory_bytes: int | None, cpu_seconds: int | None, may_write_files: bool) -> None:
    """Caps what this process may use.

    Args:
        memory_bytes: cap on the address space, or ``None``.
        cpu_seconds: cap on processor time, or ``None``.
        may_write_files: whether regular files may still grow.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 256)
    if memory_bytes is not None:
        _limit(resource.RLIMIT_AS, memory_bytes)
    if cpu_seconds is not None:
        _limit(resource.RLIMIT_CPU, cpu_seconds)
    if not may_write_files:
        _limit(resource.RLIMIT_FSIZE, 0)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))
