"""Names of users' files: taken from where they send them, cleaned, and given back to be saved.

A name is only ever shown; no file of ours is called by it.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote_to_bytes

from python_multipart.multipart import parse_options_header

_MOST_CHARACTERS = 100
_EXTENDED = re.compile(rb"filename\*\s*=\s*\"?UTF-8'[^']*'([^\s;\"]+)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*]')
"""What Windows refuses in a name; separators of folders are dealt with before."""


def sent_name(disposition: bytes) -> str | None:
    """The clean name in a ``Content-Disposition`` header, of a request or of a part of a form.

    ``filename*`` (UTF-8, RFC 6266) goes before ``filename``. None where there is no name.
    """
    extended = _EXTENDED.search(disposition)
    if extended is not None:
        return clean_name(_text(unquote_to_bytes(extended[1])))
    _, options = parse_options_header(disposition)
    return clean_name(_text(options.get(b"filename", b"")))


def clean_name(name: str) -> str | None:
    """The last part of ``name`` without what could mislead a person or a file system.

    At most 100 characters, the suffix among them; None where nothing is left.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    visible = "".join(
        " " if each.isspace() else each
        for each in last
        if each.isspace() or not unicodedata.category(each).startswith("C")
    )
    tidy = " ".join(_FORBIDDEN.sub("_", visible).split()).strip(". ")
    stem, dot, suffix = tidy.rpartition(".")
    if len(tidy) > _MOST_CHARACTERS and dot and len(suffix) < 10:
        tidy = stem[: _MOST_CHARACTERS - len(suffix) - 1].rstrip(". ") + dot + suffix
    return tidy[:_MOST_CHARACTERS].rstrip(". ") or None


def result_name(name: str, suffix: str) -> str:
    """What the x4 result of the file ``name`` is called; ``suffix`` begins with a dot."""
    stem = name.rpartition(".")[0] or name
    return f"{stem}_x4{suffix}"


def attachment(name: str) -> str:
    """``Content-Disposition`` of a download called ``name``, which must be clean (RFC 6266)."""
    if name.isascii():
        return f'attachment; filename="{name}"'
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^ !#-\[\]-~]", "_", plain)  # what the long form of a letter may have become
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
