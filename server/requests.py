"""What routes need of a request: the service, the caller, the query of an upscale."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.types import Scope

from engine.contract import ModelName
from server.access import Caller
from server.errors import ApiError, ErrorBody, stopping
from server.media.codecs import DEFAULT_CODEC, encoder_options, find_codec
from server.media.errors import CodecUnavailable
from server.service import Service
from server.whole_numbers import whole_number

PUBLIC = frozenset(
    {"/", "/app.js", "/style.css", "/sample.png", "/sample.mp4", "/favicon.ico"}
    | {"/livez", "/readyz"}
)
"""Open to everybody, even where a key is needed."""

PROTOCOL = "sr-stream"
"""The WebSocket subprotocol; a browser sends its key as a second one."""

SMALL_BODY_BYTES = 64 * 1024
"""A refused body up to this size is read to its end, so that its connection can be used again."""

SIGNED = frozenset(
    {"/jobs/{job_id}/result", "/jobs/{job_id}/playlist.m3u8", "/jobs/{job_id}/stream/{name}"}
)
"""A link to one of these may carry a signature instead of a key."""


async def service_of(connection: HTTPConnection) -> Service:
    """The service of the app that this request came to.

    Like every dependency here it is a coroutine: FastAPI runs plain functions in threads, which
    costs more than all the rest of a refused request.
    """
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


ServiceDependency = Annotated[Service, Depends(service_of)]


def key_of(connection: HTTPConnection) -> str | None:
    """The key that was sent as ``Authorization: Bearer`` or ``X-API-Key``."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if key := connection.headers.get("x-api-key"):
        return key
    return _websocket_key(connection)


def _websocket_key(connection: HTTPConnection) -> str | None:
    """Browsers cannot set headers on a WebSocket: the key is its second subprotocol."""
    if connection.scope["type"] != "websocket":
        return None
    offered = connection.headers.get("sec-websocket-protocol", "")
    protocols = [part.strip() for part in offered.split(",")]
    return protocols[1] if len(protocols) == 2 and protocols[0] == PROTOCOL else None


async def admit(connection: HTTPConnection, service: ServiceDependency) -> None:
    """Runs before every route, and before any body is read: key, then rate.

    Raises:
        ApiError: 401 no key or a wrong one, 429 too many requests.
    """
    path = getattr(connection.scope.get("route"), "path", "")
    if path in PUBLIC:
        connection.scope["caller"] = None
        return
    caller = service.keys.caller(key_of(connection)) or _signed_caller(connection, service, path)
    if caller is None:
        raise ApiError(
            "unauthorized", "send a valid key as Authorization: Bearer KEY or as X-API-Key"
        )
    connection.scope["caller"] = caller
    _count_request(connection, service, caller)


def _count_request(connection: HTTPConnection, service: Service, caller: Caller) -> None:
    if service.limits_callers:
        address = connection.client.host if connection.client else ""
        service.rate.take(address if service.keys.is_open else caller.owner)


def early_refusal(service: Service, scope: Scope) -> ApiError | None:
    """Why an upscale of a known caller is refused before it is routed or its body is read.

    None also for a caller without a valid key: ``admit`` tells them.
    """
    if scope["type"] != "http" or scope["path"] != "/upscale" or scope["method"] != "POST":
        return None
    problem = overload(service)
    if problem is None:
        return None
    connection = HTTPConnection(scope)
    caller = service.keys.caller(key_of(connection))
    if caller is None:
        return None
    scope["refused_route"] = "/upscale"
    try:
        _count_request(connection, service, caller)
    except ApiError as error:
        problem = error
    length = whole_number(connection.headers.get("content-length"))
    if length is None or length > SMALL_BODY_BYTES:
        problem.headers["Connection"] = "close"  # sooner than reading what nobody will work on
    return problem


def overload(service: Service) -> ApiError | None:
    """Why nothing can be upscaled now: 503 stopping, queue full or no engine."""
    if service.is_stopping:
        return stopping()
    waiting = service.pool.queued("picture") + service.arrivals.count
    limit = service.limits.picture_queue
    if waiting >= limit + service.pool.idle_for("picture"):
        return ApiError(
            "queue_full",
            f"the queue is full ({waiting} pictures wait); try again soon",
            limit=limit,
            actual=waiting,
        )
    if service.pool.problem:
        return ApiError("not_ready", f"no engine runs here: {service.pool.problem}")
    return None


def _signed_caller(connection: HTTPConnection, service: Service, path: str) -> Caller | None:
    query = connection.query_params
    expires = whole_number(query.get("expires"))
    if path not in SIGNED or "signature" not in query or expires is None:
        return None
    job_id = connection.path_params["job_id"]
    valid = service.signer.is_valid(job_id, expires, query["signature"])
    return Caller("") if valid else None


async def caller_of(request: Request) -> Caller:
    """Who sent the request; ``admit`` has checked it."""
    caller = request.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


CallerDependency = Annotated[Caller, Depends(caller_of)]


class UpscaleQuery(BaseModel):
    """The query of ``POST /upscale`` and ``POST /jobs``. Anything else is a bad parameter."""

    model_config = {"extra": "forbid", "use_attribute_docstrings": True}

    model: ModelName | None = None
    """Width of the network, or fast-video for compressed video; the server's own when not given."""
    format: Literal["png", "jpeg", "webp", "mp4", "mov", "mkv"] | None = None
    """Of the result: png, jpeg, webp for pictures; mp4, mov, mkv for videos."""
    codec: str | None = Field(default=None, pattern="^[a-z0-9_]{2,20}$", examples=["libx264"])
    """Of a video: libx264 (default), libx265, libsvtav1, or one of *_nvenc with a GPU."""
    quality: int | None = Field(default=None, ge=0, le=100)
    """Pictures: 1 to 100, best is 100; videos: the codec's constant quality, best is 0."""
    height: int | None = Field(default=None, ge=1, le=65536)
    """Rows of the result, at most four times the input's; the width follows."""
    size: str | None = Field(default=None, examples=["3840x2160"])
    """WIDTHxHEIGHT of the result."""
    strict: bool = False
    """Videos: refuse damaged or truncated ones instead of reporting it in the manifest."""
    best: bool = False
    """Pictures: the mean of eight turns and mirrors, eight times the work."""

    @field_validator("size")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", value):
            raise ValueError("must be WIDTHxHEIGHT, e.g. 3840x2160")
        return value

    def options_for(self, kind: Literal["picture", "video"]) -> dict[str, Any]:
        """What a worker is told. Raises ApiError 400 for what the kind cannot have."""
        options = self.model_dump(exclude_none=True, exclude_defaults=True)
        options.pop("dry_run", None)
        if self.height is not None and self.size is not None:
            raise ApiError("bad_parameter", "give height or size, not both")
        formats = ("png", "jpeg", "webp") if kind == "picture" else ("mp4", "mov", "mkv")
        if self.format is not None and self.format not in formats:
            raise ApiError(
                "bad_parameter",
                f"format: a {kind} can become {', '.join(formats)}",
                actual=self.format,
            )
        foreign = ("codec", "strict") if kind == "picture" else ("best",)
        for name in foreign:
            if name in options:
                raise ApiError("bad_parameter", f"{name} means nothing for a {kind}")
        if kind == "picture" and self.quality == 0:
            raise ApiError("bad_parameter", "quality: a picture's goes from 1 to 100", actual=0)
        if kind == "video":
            self._check_codec()
        if self.size is not None:
            width, height = self.size.split("x")
            options["size"] = (int(width), int(height))
        return options

    def _check_codec(self) -> None:
        """Before a job is promised, not when it runs. Raises ApiError 400."""
        try:
            codec = find_codec(self.codec or DEFAULT_CODEC)
            encoder_options(codec, quality=self.quality, preset=None, pace="file", gop_frames=1)
        except CodecUnavailable as error:
            raise ApiError("bad_parameter", str(error)) from None


def upscale_query_of(request: Request) -> UpscaleQuery:
    """The query, as ``Annotated[UpscaleQuery, Query()]`` would give it to a route.

    FastAPI looks at every field of such a model anew for each request, which takes a sixth of all
    that a picture costs the HTTP process.

    Raises:
        RequestValidationError: a parameter is wrong.
    """
    try:
        return UpscaleQuery.model_validate(dict(request.query_params))
    except ValidationError as error:
        found = [{**each, "loc": ("query", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(found) from None


def upscale_parameters() -> list[dict[str, Any]]:
    """For OpenAPI: the query of a route that takes it with ``upscale_query_of``."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if value is not None},
        }
        for name, schema in UpscaleQuery.model_json_schema()["properties"].items()
    ]


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "a parameter is wrong",
        401: "no key, or a wrong one",
        408: "the body came too slowly",
        413: "the body is too large",
        415: "not a supported container, codec or type",
        422: "valid HTTP, unusable media",
        429: "this caller asks too much",
        503: "queue full, not ready or stopping; see Retry-After",
        504: "the work took too long",
        507: "no room on the disk",
    }.items()
}
"""For OpenAPI: how the upscaling routes can fail."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these of ``RESPONSES``, and 404, 409, 416 where they are meant."""
    own = {404: "no such job of yours", 409: "not in this state", 416: "no such range"}
    return {
        status: RESPONSES.get(status, {"model": ErrorBody, "description": own.get(status, "")})
        for status in statuses
    }
