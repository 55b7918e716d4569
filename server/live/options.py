"""What a live stream is asked to do: a query or a first JSON message, held to the limits."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from engine.backends.base import LaneSpec
from engine.contract import SCALE, ModelName
from server.errors import ApiError
from server.live.window import LiveMode
from server.live.wire import LiveFormat, frame_bytes
from server.settings import Limits
from server.wording import about_parameter

MOST_IN_WORK = 8


class LiveOptions(BaseModel):
    """The parameters of ``/stream``. Anything else is a bad parameter."""

    model_config = {"extra": "forbid", "frozen": True, "use_attribute_docstrings": True}

    width: int = Field(ge=1)
    """Pixels of every frame that is sent."""
    height: int = Field(ge=1)
    format: LiveFormat = "jpeg"
    """Of the frames that are sent: ``rgb24``, ``nv12`` or ``jpeg``."""
    answer: LiveFormat = "jpeg"
    """Of the frames that come back."""
    quality: int = Field(default=85, ge=1, le=95)
    """Of JPEG answers."""
    mode: LiveMode = "latest"
    """``latest``: a newer frame replaces the one that waits; ``lossless``: every frame."""
    in_work: int = Field(default=2, ge=1, le=MOST_IN_WORK)
    """Frames in work at once: fewer is less latency, more is more frames a second."""
    model: ModelName | None = None
    """Width of the network, or fast-video for compressed video; the server's own when not given."""
    matrix: Literal["bt601", "bt709", "bt2020"] = "bt709"
    """Of nv12 frames, in and out."""
    full_range: bool = False
    """Whether nv12 samples span 0..255."""

    @property
    def lane(self) -> LaneSpec:
        """What the engine works on; the other format is converted before, where it is small."""
        form: Literal["rgb24", "nv12"] = "nv12" if self.answer == "nv12" else "rgb24"
        return LaneSpec(self.height, self.width, form, self.matrix, self.full_range)

    @property
    def answer_size(self) -> tuple[int, int]:
        """(width, height) of the answers."""
        return self.width * SCALE, self.height * SCALE

    @property
    def frame_bytes(self) -> int:
        """Length of a frame; for jpeg the most that is taken."""
        return frame_bytes(self.format, self.width, self.height)

    def check_payload(self, number: int, payload: bytes) -> None:
        """Raises ApiError 400 or 413 for a frame that cannot be one of this stream."""
        found, expected = len(payload), self.frame_bytes
        if self.format != "jpeg" and found != expected:
            raise ApiError(
                "bad_request",
                f"frame {number} has {found} bytes, and a {self.format} frame of "
                f"{self.width}x{self.height} has {expected}",
                limit=expected,
                actual=found,
            )
        if found > expected:
            raise ApiError(
                "too_large",
                f"frame {number} is larger than its pixels would be ({expected} bytes)",
                limit=expected,
                actual=found,
            )


def parse_options(given: dict[str, Any], limits: Limits) -> LiveOptions:
    """The options in ``given``. Raises ApiError 400 bad parameter, 422 over a limit."""
    try:
        options = LiveOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "the options"
        sent = first.get("input")
        actual = str(sent)[:100] if isinstance(sent, str | int | float) else None
        raise ApiError("bad_parameter", about_parameter(first, name), actual=actual) from None
    width, height = options.width, options.height
    for what, found, limit in (
        ("the longer side", max(width, height), limits.max_video_side),
        ("the frame", width * height, limits.max_live_pixels),
    ):
        if found > limit:
            message = (
                f"{what} of {width}x{height} has {found} pixels, and at most {limit} are taken"
            )
            raise ApiError("over_limit", message, limit=limit, actual=found)
    return options


def parse_message(text: str) -> dict[str, Any]:
    """A JSON object. Raises ApiError 400."""
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ApiError("bad_request", "a text message must be one JSON object")
    return message
