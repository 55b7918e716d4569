"""Landlock: this process sees the files that it is given, and no other. Linux 5.13 and later.

Called by number through ctypes (ADR 0006). Rules hold for the calling thread and all that it
starts later, so this comes before the first thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same on every architecture."""
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version -> every right over files that it knows; a process loses those it does not ask for."""
_NETWORK_RIGHTS = 0b11
"""Since version 4: to bind and to connect TCP sockets."""
_SCOPES = 0b11
"""Since version 6: abstract sockets and signals to processes outside."""


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def version() -> int:
    """Of Landlock in this kernel; 0 where there is none or it is switched off."""
    found = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, int(found))


def see_only(reads: Iterable[Path], writes: Iterable[Path] = ()) -> bool:
    """From here on only ``reads`` and what is below them can be read, and ``writes`` changed too.

    Descriptors that are open stay as they are. What is not there is left out. Needs
    PR_SET_NO_NEW_PRIVS.

    Args:
        reads: files and directories.
        writes: files that exist.

    Returns:
        Whether that holds now; False without Landlock.
    """
    known = version()
    if known == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rights = _FILE_RIGHTS[max(each for each in _FILE_RIGHTS if each <= known)]
    rules = _Ruleset(rights, _NETWORK_RIGHTS if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        given = [(path, _READ_FILE | _READ_DIR) for path in reads]
        given += [(path, _READ_FILE | _WRITE_FILE | _TRUNCATE) for path in writes]
        return all(_allow(libc, ruleset, path, wanted & rights) for path, wanted in given) and (
            libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> bool:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not path.is_dir():
            rights &= ~_READ_DIR  # the kernel refuses a rule that makes no sense
        rule = _PathRule(rights, descriptor)
        return bool(
            libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0) == 0
        )
    finally:
        os.close(descriptor)
