"""Who may call: hashed keys, signed links, and the checks against a browser used as a proxy.

Keys are 256 random bits, so one SHA-256 is enough of a hash. A key file has one line per key,
``NAME:SHA256``; only hashes are stored, several are active at once, comparison takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from server.settings import Settings, SettingsError

EVERYBODY = "everybody"
"""The owner of what is made while no key is needed."""

_LINE = re.compile(r"^([A-Za-z0-9_.-]{1,64}):([0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    owner: str
    """Name of the key, or ``everybody``; jobs belong to it."""


def hash_key(key: str) -> str:
    """What is stored of ``key``: its SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The active keys; empty means that everything is open."""

    def __init__(self, owners: dict[str, str]) -> None:
        self._owners = owners  # hash -> name

    @property
    def is_open(self) -> bool:
        """Whether callers need no key."""
        return not self._owners

    def caller(self, key: str | None) -> Caller | None:
        """Who ``key`` belongs to; None when it opens nothing."""
        if self.is_open:
            return Caller(EVERYBODY)
        digest = hash_key(key or "")
        owner = None
        for stored, name in self._owners.items():  # all of them: no early exit to time
            if hmac.compare_digest(stored, digest):
                owner = name
        return Caller(owner) if owner is not None and key else None


def read_keys(path: Path) -> dict[str, str]:
    """hash -> name of each key in ``path``. Raises SettingsError for a file that is not usable."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SettingsError(
            f"the key file {path} cannot be read ({error.strerror}); "
            "make one with sr-server --add-key NAME."
        ) from None
    owners: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line.strip())
        if match is None:
            raise SettingsError(f"line {number} of the key file {path} is not NAME:SHA256.")
        owners[match[2]] = match[1]
    if not owners:
        raise SettingsError(f"the key file {path} holds no key; add one with --add-key NAME.")
    return owners


def add_key(path: Path, name: str) -> str:
    """Makes a key, appends its hash to ``path`` (mode 0600) and returns the key itself."""
    key = secrets.token_urlsafe(32)
    if _LINE.match(f"{name}:{hash_key(key)}") is None:
        raise SettingsError(f"{name!r} cannot name a key: use letters, digits, '.', '_' and '-'.")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as file:
        file.write(f"{name}:{hash_key(key)}\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def open_key_ring(settings: Settings) -> tuple[KeyRing, str | None]:
    """The keys of this server and, when one was made just now, the key to print once.

    On loopback without a key file all is open; ``insecure`` opens any address; elsewhere a first
    key is made and its hash kept in the data directory.
    """
    if settings.api_keys_file is not None:
        return KeyRing(read_keys(settings.api_keys_file)), None
    if settings.is_loopback or settings.insecure:
        return KeyRing({}), None
    path = settings.data_dir / "api_keys"
    made = None if path.exists() else add_key(path, "first")
    return KeyRing(read_keys(path)), made


class LinkSigner:
    """Signs job results so that a plain link works without a key until it expires."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, data_dir: Path) -> LinkSigner:
        """The signer of this data directory; its secret survives a restart."""
        path = data_dir / "link_secret"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        with os.fdopen(descriptor, "wb") as file:
            secret = secrets.token_bytes(32)
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return cls(secret)

    def sign(self, job_id: str, expires: int) -> str:
        """The signature of ``job_id``'s result until ``expires`` (seconds since 1970)."""
        message = f"{job_id}:{expires}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def is_valid(self, job_id: str, expires: int, signature: str) -> bool:
        """Whether this link was signed here and has not expired."""
        expected = self.sign(job_id, expires)
        same = hmac.compare_digest(expected.encode(), signature.encode())
        return same and expires >= time.time()


def host_is_allowed(host_header: str, settings: Settings) -> bool:
    """Whether to answer to this ``Host``: a page elsewhere must not rebind its name to us.

    A public server answers to any name unless ``SR_ALLOWED_HOSTS`` says which: there the key
    protects it. On loopback, where no key is needed, only names of this machine count.
    """
    name = host_header.rsplit(":", 1)[0] if not host_header.endswith("]") else host_header
    allowed = set(settings.allowed_hosts)
    if settings.is_loopback:
        allowed |= {"localhost", "127.0.0.1", "[::1]", settings.host}
    return not allowed or name.lower() in allowed


def origin_is_ours(origin: str | None, host_header: str) -> bool:
    """Whether a request comes from our own page, or from no page at all."""
    return origin is None or origin.split("://", 1)[-1] == host_header
