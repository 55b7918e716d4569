"""The one form of every HTTP error, and which code belongs to which status.

``{"error": {"code", "message", "limit", "actual", "request_id"}}``: never a path, never a
traceback. Everything that can go wrong becomes an :class:`ApiError` at the edge of its request.
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from server.wording import about_parameter

STATUS_OF_CODE: dict[str, int] = {
    "bad_parameter": 400,
    "bad_request": 400,
    "digest_mismatch": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "conflict": 409,
    "not_finished": 409,
    "too_large": 413,
    "unsupported_media": 415,
    "bad_range": 416,
    "unusable_media": 422,
    "over_limit": 422,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "headers_too_large": 431,
    "too_many_jobs": 429,
    "too_many_streams": 429,
    "internal": 500,
    "engine_failed": 500,
    "queue_full": 503,
    "not_ready": 503,
    "stopping": 503,
    "timed_out": 504,
    "disk_full": 507,
}
"""Every code that a client can meet."""

RETRY_AFTER_SECONDS = {"queue_full": 2, "not_ready": 5, "stopping": 10, "rate_limited": 1}


class ErrorDetail(BaseModel):
    """What went wrong, for a person (``message``) and for a program (the rest)."""

    code: str
    message: str
    limit: float | str | None = None
    actual: float | str | None = None
    request_id: str = ""


class ErrorBody(BaseModel):
    """The body of every answer of 400 and above."""

    error: ErrorDetail

    model_config = {
        "json_schema_extra": {
            "example": {
                "error": {
                    "code": "too_large",
                    "message": "the body is larger than 33554432 bytes; send a smaller picture",
                    "limit": 33554432,
                    "actual": 40000000,
                    "request_id": "b0c1f2a37d5e4c11",
                }
            }
        }
    }


class ApiError(Exception):
    """Ends a request with ``code``'s status and the one error form."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        limit: float | str | None = None,
        actual: float | str | None = None,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or STATUS_OF_CODE[code]
        self.code = code
        self.message = message
        self.limit = limit
        self.actual = actual
        self.headers = dict(headers or {})
        if code in RETRY_AFTER_SECONDS:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS[code]))
        if code == "unauthorized":
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    def to_dict(self) -> dict[str, Any]:
        """What a job keeps of it."""
        return {
            "code": self.code,
            "message": self.message,
            "limit": self.limit,
            "actual": self.actual,
            "status": self.status,
        }

    @classmethod
    def from_dict(cls, detail: Mapping[str, Any]) -> ApiError:
        """The error that a worker reported, or that a job kept."""
        code = str(detail.get("code", "internal"))
        return cls(
            code,
            str(detail.get("message", "the server failed")),
            limit=detail.get("limit"),
            actual=detail.get("actual"),
            status=detail.get("status") or STATUS_OF_CODE.get(code, 500),
        )


def error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """``error`` as the one JSON form."""
    detail = ErrorDetail(
        code=error.code,
        message=error.message,
        limit=error.limit,
        actual=error.actual,
        request_id=request_id,
    )
    return ErrorBody(error=detail).model_dump()


def stopping() -> ApiError:
    """The 503 of a server that has been told to stop."""
    return ApiError("stopping", "the server is stopping; try again in a moment")


def error_response(error: ApiError, request_id: str) -> JSONResponse:
    """``error`` as an answer."""
    body = error_body(error, request_id)
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def from_http_exception(error: HTTPException) -> ApiError:
    """Starlette's own errors (no such route, wrong method, …) in our words."""
    codes = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    messages = {
        404: "there is nothing here; the routes are listed at /docs",
        405: "this route does not take this method; the header Allow lists those it takes",
    }
    code = codes.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
    phrase = http.HTTPStatus(error.status_code).phrase.lower()
    return ApiError(code, messages.get(error.status_code, phrase), headers=error.headers)


def from_validation(error: RequestValidationError) -> ApiError:
    """The first bad parameter, named, with the value that was sent."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    sent = first.get("input")
    actual = str(sent)[:100] if isinstance(sent, str | int | float) else None
    return ApiError("bad_parameter", about_parameter(first, name), actual=actual)


def request_id_of(request: Request) -> str:
    """The id that the request's middleware gave it."""
    return str(request.scope.get("request_id", ""))


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of ``app`` take the one form."""

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        request.scope["error_code"] = error.code
        return error_response(error, request_id_of(request))

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return await on_api_error(request, from_http_exception(error))

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await on_api_error(request, from_validation(error))

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation)
