"""The app: routes, errors and the middleware around one :class:`~server.service.Service`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from server import routes_jobs, routes_live, routes_playback, routes_status, routes_upscale
from server.errors import install_error_handlers
from server.examples import add_examples
from server.middleware import RequestMiddleware
from server.requests import PUBLIC, admit, early_refusal
from server.service import WORKER_COMMAND, Service
from server.settings import Settings

DESCRIPTION = (
    "Pictures and videos, four times larger. Every error has the body "
    "`{error: {code, message, limit, actual, request_id}}`. Live frames go over the WebSocket "
    "`/stream?width=…&height=…`; `docs/api-live.md` of the source describes its messages."
)


def create_app(settings: Settings, worker_command: Sequence[str] = WORKER_COMMAND) -> FastAPI:
    """The app for ``settings``; its service runs while the app's lifespan does.

    Args:
        settings: see there.
        worker_command: starts an engine worker; tests give their own.

    Raises:
        SettingsError: the data directory or the key file cannot be used.
    """
    service = Service(settings, worker_command)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="sr-server",
        description=DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        dependencies=[Depends(admit)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(
        RequestMiddleware,
        settings=settings,
        metrics=service.metrics,
        refusal=partial(early_refusal, service),
    )
    install_error_handlers(app)
    for routes in (routes_upscale, routes_jobs, routes_playback, routes_live, routes_status):
        app.include_router(routes.router)
    _prepare_routes(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's own way
    return app


def _prepare_routes(app: FastAPI) -> None:
    """FastAPI builds its routes when the first request looks for one: 60 ms of the event loop's
    time, for everybody who is there already. Looking for one now builds them before."""
    for route in app.routes:
        route.matches({"type": "http", "path": "/livez", "method": "GET", "headers": []})


def _version() -> str:
    try:
        return version("sr-server")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema with keys, and without the 422 that we never send for parameters."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                _fix_operation(path, operation)
                add_examples(path, method, operation)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _fix_operation(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    validation = responses.get("422", {}).get("content", {}).get("application/json", {})
    if validation.get("schema", {}).get("$ref", "").endswith("HTTPValidationError"):
        del responses["422"]
    if operation.get("parameters"):
        body = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
        responses.setdefault("400", {"description": "a parameter is wrong", "content": body})
    if path not in PUBLIC:
        operation["security"] = [{"bearer": []}, {"key": []}]
