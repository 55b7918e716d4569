"""The header ``Content-Digest`` (RFC 9530): a body that arrived changed is refused.

Over the body as it was sent: of a form, the whole form.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import AsyncIterator

from server.errors import ApiError

_MEMBER = re.compile(r"\s*(sha-256|sha-512)=:([A-Za-z0-9+/=]*):\s*")


class ContentDigest:
    """What a caller says of a body, and what came.

    Args:
        header: the value of the header; None when there is none. Algorithms other than sha-256
            and sha-512 are left out of account.

    Raises:
        ApiError: 400 the header says none that can be checked.
    """

    def __init__(self, header: str | None) -> None:
        self._expected: dict[str, bytes] = {}
        if header is None:
            return
        for member in header.split(","):
            if found := _MEMBER.fullmatch(member):
                self._expected[found[1].replace("-", "")] = _decoded(found[2])
        if not self._expected:
            raise ApiError(
                "bad_request",
                "the header Content-Digest needs sha-256=:BASE64: or sha-512=:BASE64:",
            )

    async def checked(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """``body``, chunk by chunk. Raises ApiError 400 at its end when it is another body."""
        hashes = {name: hashlib.new(name) for name in self._expected}
        async for chunk in body:
            for digest in hashes.values():
                digest.update(chunk)
            yield chunk
        for name, digest in hashes.items():
            if not hmac.compare_digest(digest.digest(), self._expected[name]):
                raise ApiError(
                    "digest_mismatch",
                    "the body is not the one of its Content-Digest; send it again",
                )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ApiError("bad_request", "the header Content-Digest is not Base64") from None
