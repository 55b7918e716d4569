"""sr-server whose pictures are decoded inside the engine worker: what isolation costs is the rest.

For ``load.py`` only. Nobody should serve strangers' pictures like this, so the product cannot.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from server import __main__ as product
from server.app import create_app
from server.media.picture_modes import decode_picture
from server.media.pictures import Picture, PictureLimits
from server.workers import __main__ as worker
from server.workers import tasks


class DecoderInside:
    """In place of ``PictureDecoder``: the same function, no child process."""

    def decode(self, source: Path | bytes, limits: PictureLimits | None = None) -> Picture:
        data = source.read_bytes() if isinstance(source, Path) else source
        return decode_picture(io.BytesIO(data), limits or PictureLimits(), keep_gps=True)

    def close(self) -> None:
        """Nothing to close."""


def main() -> int:
    """As a server without arguments; with a descriptor and a configuration as its worker."""
    if sys.argv[1:2] != ["--port"]:
        tasks.PictureDecoder = DecoderInside  # type: ignore[assignment,misc]
        return worker.main()
    command = (sys.executable, str(Path(__file__)))
    product.create_app = partial(create_app, worker_command=command)  # type: ignore[assignment]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
