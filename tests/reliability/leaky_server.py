"""The product's server with a leak put in: each request keeps a descriptor, a thread and memory.

What the soak has to find; nothing else uses it.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from server import __main__ as product
from server.middleware import RequestMiddleware

LEAKED_BYTES = 192 * 1024
KEPT: list[Any] = []


def main() -> int:
    honest = RequestMiddleware.__call__
    for_ever = threading.Event()

    async def leaky(self: RequestMiddleware, *arguments: Any) -> None:
        KEPT.append((os.dup(0), bytearray(b"x" * LEAKED_BYTES)))
        if len(KEPT) % 10 == 0:
            threading.Thread(target=for_ever.wait, daemon=True).start()
        await honest(self, *arguments)

    RequestMiddleware.__call__ = leaky  # type: ignore[method-assign]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
