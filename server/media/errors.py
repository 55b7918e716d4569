"""What can be wrong with user media, as exceptions that know their HTTP status.

Messages are one sentence for a person: what was found and what to do. They never hold a path.
"""

from __future__ import annotations


class MediaError(Exception):
    """Base of everything that is wrong with a file rather than with us."""

    status = 422
    code = "unusable_media"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        limit: int | None = None,
        actual: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.limit = limit
        """The limit that was passed, where there is one."""
        self.actual = actual
        """What the file has instead of ``limit``, as far as it is known."""
        if code is not None:
            self.code = code


class UnsupportedMedia(MediaError):
    """Not a container, codec or colour format that is supported (415)."""

    status = 415
    code = "unsupported_media"


class UnusableMedia(MediaError):
    """The right type, but damaged, empty or without what is needed (422)."""


class OverLimit(MediaError):
    """More bytes, pixels, frames, streams or seconds than allowed (422, bytes 413)."""

    code = "over_limit"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        limit: int | None = None,
        actual: int | None = None,
        status: int = 422,
    ) -> None:
        super().__init__(message, code=code, limit=limit, actual=actual)
        self.status = status


class EncodeError(Exception):
    """An output could not be made for a reason that is not the input's fault."""


class CodecUnavailable(EncodeError):
    """The encoder asked for cannot make this output (missing, too large, wrong container)."""


class DiskFull(EncodeError):
    """There was no room left for the output (507)."""


class Cancelled(Exception):
    """The caller asked to stop."""
