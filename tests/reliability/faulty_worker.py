"""The product's own worker whose engine is a ``FaultyBackend``: FAULT FRAME MARKER FD CONFIG.

MARKER ``-`` makes every process fail.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from server.workers import __main__ as worker
from server.workers import tasks
from tests.reliability.faulty_backend import Fault, FaultyBackend


def main() -> int:
    fault, frame, marker = sys.argv[1:4]
    del sys.argv[1:4]
    assert fault in get_args(Fault)

    def open_faulty(*arguments: Any, **options: Any) -> FaultyBackend:
        once = None if marker == "-" else Path(marker)
        return FaultyBackend(fault, int(frame), once)  # type: ignore[arg-type]

    tasks.open_backend = open_faulty  # type: ignore[assignment]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
