"""What the service makes of an item, as the few facts that must never change unnoticed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.media.errors import MediaError
from server.media.limits import Limits
from server.media.structure import missing_bytes
from server.picture_decoder import PictureDecoder
from server.picture_session import PictureOptions, upscale_picture
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.corpus import bad_videos, good_videos, hostile, pictures
from tests.corpus.item import Item
from tests.reliability.decode_forks import DecodeForks

Facts = dict[str, Any]


def all_items() -> list[Item]:
    return [
        *hostile.items(),
        *pictures.items(),
        *good_videos.items(),
        *bad_videos.items(),
    ]


@dataclass
class Judges:
    """The parts of the service that look at files, each started once."""

    upscaler: Upscaler
    pictures: PictureDecoder
    forks: DecodeForks

    def facts(self, item: Item, folder: Path) -> Facts:
        """Makes ``item`` in ``folder`` and gives it to the part that it is for."""
        path = folder / "upload"
        item.make(path)
        try:
            match item.route:
                case "session":
                    return self._session(path)
                case "picture":
                    return self._picture(path)
                case "decode":
                    return self._decode(path)
        except MediaError as error:
            return {"status": error.status, "code": error.code}

    def _session(self, path: Path) -> Facts:
        output = path.with_name("output.mkv")
        options = VideoOptions(limits=Limits())
        manifest = upscale_video(path, output, self.upscaler, options)
        counts = {manifest.frames_in, manifest.frames_out, manifest.frames_encoded}
        assert len(counts) == 1, counts
        return {
            "frames": manifest.frames_out,
            "pts_sha256": manifest.pts_sha256,
            "size": [manifest.output["width"], manifest.output["height"]],
            "kept": sorted(entry["type"] for entry in manifest.copied),
            "dropped": sorted(entry["type"] for entry in manifest.dropped),
            "truncated": manifest.input_truncated,
            "warnings": len(manifest.warnings),
        }

    def _picture(self, path: Path) -> Facts:
        picture = self.pictures.decode(path)
        result = upscale_picture(picture, self.upscaler, PictureOptions(format="png"))
        pixels = np.asarray(Image.open(io.BytesIO(result.data)))
        lossless = picture.format == "png"
        digest = hashlib.sha256(pixels.tobytes()).hexdigest() if lossless else None
        return {
            "size": [result.width, result.height],
            "channels": 1 if pixels.ndim == 2 else pixels.shape[2],
            "pixels_sha256": digest,
            "notes": len(result.notes),
        }

    def _decode(self, path: Path) -> Facts:
        missing = missing_bytes(path)
        outcome = self.forks.decode(path)
        assert outcome.died is None, outcome
        if outcome.code is not None:
            return {"code": outcome.code}
        return {
            "frames": outcome.frames,
            "pts_sha256": outcome.pts_sha256,
            "damaged": outcome.damaged,
            "cut": missing > 0,
        }


@contextmanager
def judges() -> Iterator[Judges]:
    with Upscaler(NearestBackend()) as upscaler, PictureDecoder() as decoder:  # noqa: SIM117
        with DecodeForks() as forks:
            yield Judges(upscaler, decoder, forks)
