"""``sr-server``: serves the page and the API until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from engine.command_line import parse_command_line
from server.access import add_key
from server.app import create_app
from server.http_server import make_server
from server.logs import configure_logs
from server.settings import Settings, SettingsError, load_settings

BAD_SETTINGS, NO_ENGINE = 2, 3


@dataclass(frozen=True, slots=True)
class Options:
    """Serves pictures and videos, four times larger. Everything else is set by SR_… variables."""

    host: str | None = None
    """Address to listen on (SR_HOST, 127.0.0.1)."""
    port: int | None = None
    """Port to listen on (SR_PORT, 8000); 0 takes a free one."""
    backend: str | None = None
    """auto, winograd, onnxruntime, tensorrt, tensorrt_rtx or nearest (SR_BACKEND)."""
    model: str | None = None
    """fast, balanced, quality, fast-video, auto or a path (SR_MODEL)."""
    insecure: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let everybody in on a public address."""
    add_key: str | None = None
    """Make an API key with this name, print it once, and exit."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 after a stop, 2 for bad settings, 3 for an engine that fails."""
    options = parse_command_line(
        "sr-server", arguments, lambda words: tyro.cli(Options, args=words, prog="sr-server")
    )
    try:
        settings = load_settings(
            host=options.host,
            port=options.port,
            backend=options.backend,
            model=options.model,
            insecure=options.insecure or None,
        )
        if options.add_key is not None:
            return _add_key(settings, options.add_key)
        return serve(settings)
    except SettingsError as error:
        print(f"sr-server: {error}", file=sys.stderr)
        return BAD_SETTINGS


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Raises SettingsError when it cannot start."""
    _check_cache_dir(settings.cache_dir)
    listener = _listen(settings.host, settings.port)
    with listener:
        app = create_app(settings)
        service = app.state.service
        port = listener.getsockname()[1]
        where = f"http://{_url_host(settings.host)}:{port}/"
        key = "" if service.made_key is None else f"#key={service.made_key}"
        configure_logs()
        server = make_server(
            app, settings, service, lambda: print(f"open {where}{key}", flush=True)
        )
        asyncio.run(server.serve([listener]))
    problem = service.pool.problem
    if problem:
        print(f"sr-server: {problem}", file=sys.stderr)
        return NO_ENGINE
    return 0


def _add_key(settings: Settings, name: str) -> int:
    path: Path = settings.api_keys_file or settings.data_dir / "api_keys"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = add_key(path, name)
    except OSError as error:
        raise SettingsError(
            f"the key file {path} cannot be written ({error.strerror}); set SR_API_KEYS_FILE."
        ) from None
    print(key)
    return 0


def _check_cache_dir(path: Path | None) -> None:
    """A plan cache that was named must take plans: better known now than after a build."""
    if path is None:
        return
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise SettingsError(
            f"the plan cache {path} cannot be written ({error.strerror}); set SR_CACHE_DIR."
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        raise SettingsError(f"SR_HOST={host!r} is no address here: {error.strerror}.") from None
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port."
        ) from None
    return listener


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
