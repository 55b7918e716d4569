"""The same picture work behind LitServe, for ``load.py``: PORT and WORKERS are its arguments.

Needs ``pip install litserve`` (Lightning AI, Apache-2.0); nothing of the product does. The work is
the product's own decoding, ``nearest`` and encoding, so that only the serving differs. LitServe
takes JSON or forms; JSON with Base64 is the faster of the two.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import litserve
from fastapi import Response

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.media.picture_modes import decode_picture
from server.media.pictures import EncodedPicture, Picture, PictureLimits
from server.picture_session import upscale_picture


class PictureApi(litserve.LitAPI):  # type: ignore[misc]
    """Decode, repeat, encode."""

    def setup(self, device: str) -> None:
        self._upscaler = Upscaler(NearestBackend())

    def decode_request(self, request: dict[str, str]) -> Picture:
        data = base64.b64decode(request["picture"])
        return decode_picture(io.BytesIO(data), PictureLimits(), keep_gps=True)

    def predict(self, x: Picture, **_: Any) -> EncodedPicture:
        return upscale_picture(x, self._upscaler)

    def encode_response(self, output: EncodedPicture, **_: Any) -> Response:
        return Response(output.data, media_type=output.media_type)


def main() -> None:
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    server = litserve.LitServer(
        PictureApi(), accelerator="cpu", workers_per_device=workers, timeout=60
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
