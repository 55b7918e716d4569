"""The part ``file`` out of a multipart body, as it comes; other fields are counted and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.multipart import MultipartParser, parse_options_header

from server.errors import ApiError
from server.file_names import sent_name

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 8
_MAX_FIELD_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 8 * 1024


class FilePart:
    """Feeds a streaming parser and gives back only the bytes of the one part named ``file``.

    ``file_name`` is what the user's file is called, cleaned; nothing here is called by it.
    """

    def __init__(self, boundary: bytes) -> None:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(boundary, callbacks)
        self._out = bytearray()
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._parts = 0
        self._header_bytes = 0
        self._field_bytes = 0
        self._in_file = False
        self._found = False
        self.file_name: str | None = None
        self._ended = False

    def feed(self, chunk: bytes) -> bytes:
        """Bytes of the file that this chunk brought. Raises ApiError 400, MultipartParseError."""
        self._parser.write(chunk)
        data = bytes(self._out)
        self._out.clear()
        return data

    def finish(self) -> None:
        """Raises ApiError 400 unless the body ended well and had the file."""
        self._parser.finalize()
        if not self._ended:
            raise ApiError("bad_request", "the multipart body ends before its last boundary")
        if not self._found:
            raise ApiError("bad_request", "the multipart body has no part named file")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_FIELDS + 1:
            raise ApiError(
                "bad_request", "the multipart body has too many parts", limit=_MAX_FIELDS + 1
            )
        self._disposition = b""
        self._header_bytes = self._field_bytes = 0
        self._field = self._value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise ApiError("bad_request", "a part's headers are too long", limit=_MAX_HEADER_BYTES)

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._in_file = options.get(b"name") == b"file"
        if self._in_file and self._found:
            raise ApiError("bad_request", "the multipart body has two parts named file; send one")
        if self._in_file:
            self._found, self.file_name = True, sent_name(self._disposition)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._out += data[start:end]
            return
        self._field_bytes += end - start
        if self._field_bytes > _MAX_FIELD_BYTES:
            raise ApiError("bad_request", "a multipart field is too long", limit=_MAX_FIELD_BYTES)

    def _on_end(self) -> None:
        self._ended = True
