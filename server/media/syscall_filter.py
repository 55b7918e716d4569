"""A seccomp filter: this process may compute, read and write what is open, and little else.

The filter is a list of what is allowed, so that a call of a future kernel is refused like any
other. x86-64 only, the platform of the image; elsewhere ``install`` says that nothing holds.
Called by number through ctypes (ADR 0006).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from functools import cache

_ALLOWED = """
    read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20
    access=21 select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 nanosleep=35 getpid=39
    exit=60 uname=63 fcntl=72 fsync=74 fdatasync=75 ftruncate=77 getdents=78 getcwd=79 readlink=89
    gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 getuid=102 getgid=104 geteuid=107
    getegid=108 sigaltstack=131 sched_getparam=143 sched_getscheduler=145
    sched_get_priority_max=146 sched_get_priority_min=147 gettid=186 time=201 futex=202
    sched_getaffinity=204 getdents64=217 restart_syscall=219 fadvise64=221 clock_gettime=228
    clock_getres=229 clock_nanosleep=230 exit_group=231 openat=257 newfstatat=262 readlinkat=267
    faccessat=269 pselect6=270 ppoll=271 set_robust_list=273 fallocate=285 dup3=292 preadv=295
    pwritev=296 getcpu=309 getrandom=318 membarrier=324 statx=332 rseq=334 faccessat2=439
    futex_wake=454 futex_wait=455
"""
"""``restart_syscall`` is how a wait with an end goes on in a process that was stopped, or frozen
with its container: refused, glibc takes that for a broken kernel and aborts."""
_MMAP, _MPROTECT, _IOCTL, _CLONE, _TGKILL, _PRLIMIT = 9, 10, 16, 56, 234, 302
_SET_PRIORITIES = (142, 144, 203, 314)
"""sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr."""

_PROT_EXEC, _CLONE_THREAD = 0x4, 0x10000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in ``struct seccomp_data``."""
_X86_64 = 0xC000003E
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_RETURN_ALLOW, _RETURN_KILL, _RETURN_ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_SECCOMP = 317


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install() -> bool:
    """Refuses everything but the allowed calls, in all threads and for good.

    Needs PR_SET_NO_NEW_PRIVS. A refused call fails with ENOSYS: what a kernel that lacks it says,
    so that libraries do without.

    Returns:
        Whether the filter holds; False on another architecture or without seccomp.
    """
    if platform.machine() != "x86_64" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    before, after = prepared()
    own_signals = _if_argument(_TGKILL, 0, _IF_EQUAL, os.getpid(), (_RETURN_ALLOW, errno.EPERM))
    instructions = before + b"".join(own_signals) + after
    program = _Program(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_ALL_THREADS)
    return bool(libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program)) == 0)


@cache
def prepared() -> tuple[bytes, bytes]:
    """The filter, before and after the one rule that knows the process.

    Call it before a fork, and no child needs to make it again.
    """
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, _X86_64, 1, 0),
        _step(_RETURN, _RETURN_KILL),
        _step(_LOAD, _NUMBER),
    ]
    for call in _ALLOWED.split():
        code += [_step(_IF_EQUAL, int(call.partition("=")[2]), 0, 1), _step(_RETURN, _RETURN_ALLOW)]
    # Threads, but no processes; memory, but no new code; signals and limits of this process only.
    code += _if_argument(_CLONE, 0, _IF_ANY_BIT, _CLONE_THREAD, (_RETURN_ALLOW, errno.EPERM))
    for number in (_MMAP, _MPROTECT):
        code += _if_argument(number, 2, _IF_ANY_BIT, _PROT_EXEC, (errno.EPERM, _RETURN_ALLOW))
    before, code = b"".join(code), []
    code += _if_argument(_PRLIMIT, 0, _IF_EQUAL, 0, (_RETURN_ALLOW, errno.EPERM))
    # Refusals that somebody asks about: Python takes ENOTTY for "no device" and libraries take
    # EPERM for "no real-time priority here".
    code += _refusal(_IOCTL, errno.ENOTTY)
    for number in _SET_PRIORITIES:
        code += _refusal(number, errno.EPERM)
    code.append(_step(_RETURN, _RETURN_ERROR | errno.ENOSYS))  # clone3 too: glibc then uses clone
    return before, b"".join(code)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction of classic BPF; jumps are counted from the next one."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refusal(number: int, error: int) -> list[bytes]:
    return [_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, _RETURN_ERROR | error)]


def _if_argument(
    number: int, argument: int, test: int, value: int, results: tuple[int, int]
) -> list[bytes]:
    """For one call: ``results`` if the lower half of an argument passes a test, and if not.

    A result is an error number or ``_RETURN_ALLOW``.
    """
    passed, failed = (each if each == _RETURN_ALLOW else _RETURN_ERROR | each for each in results)
    return [
        _step(_IF_EQUAL, number, 0, 4),
        _step(_LOAD, _ARGUMENTS + 8 * argument),
        _step(test, value, 0, 1),
        _step(_RETURN, passed),
        _step(_RETURN, failed),
    ]
