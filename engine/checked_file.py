"""A cache file that is whole or not there: sha256 first, then the content, written atomically.

For what a runtime would trust blindly and can make again (timings, compiled kernels).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

DIGEST_BYTES = hashlib.sha256().digest_size


def read_checked(path: Path) -> bytes | None:
    """The content, or None when the file is missing, unreadable or not what was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_checked(path: Path, content: bytes) -> bool:
    """Writes beside, fsync, rename. False when it could not be written: it is only a cache."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        return False
    return True
