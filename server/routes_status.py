"""How the server is: probes, metrics, limits, the model's chain of hashes, the page, the API."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from server.docs import docs_page
from server.requests import ServiceDependency, errors
from server.settings import Limits

router = APIRouter(tags=["status"])

_PAGE_FILES = {
    "app.js": "text/javascript",
    "style.css": "text/css",
    "index.html": "text/html",
    "sample.png": "image/png",
    "sample.mp4": "video/mp4",
}


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    """200 for as long as the event loop turns; never queued behind work."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Work can be sent here",
    responses={
        200: {"description": "ready"},
        503: {"description": "not yet, and why; `build` says how far a plan is built"},
    },
)
async def readyz(service: ServiceDependency) -> JSONResponse:
    """Engine, workers, plan build and calibration."""
    ready, body = service.readiness()
    headers = {} if ready else {"Retry-After": "5"}
    return JSONResponse(body, 200 if ready else 503, headers)


@router.get("/model", summary="What runs, down to the hashes", responses=errors(401))
async def model(service: ServiceDependency) -> dict[str, Any]:
    """Backend, model and the chain dataset → weights → ONNX → plan, of a worker that is ready."""
    engine = service.engine
    return {
        "engine": engine,
        "chain": {
            "dataset_sha256": engine.get("provenance", {}).get("dataset_sha256"),
            "checkpoint_sha256": engine.get("provenance", {}).get("checkpoint_sha256"),
            "weights_sha256": engine.get("provenance", {}).get("weights_sha256"),
            "onnx_sha256": engine.get("onnx_sha256"),
            "plan_sha256": engine.get("plan_sha256"),
        },
        "calibration": service.measurement.result,
    }


@router.get("/limits", summary="What one caller may ask for", responses=errors(401))
async def limits(service: ServiceDependency) -> dict[str, Any]:
    """Each limit, its variable, and the status of a request that passes it."""
    return {
        name: {
            "value": getattr(service.limits, name),
            "variable": f"SR_{name.upper()}",
            "over": field.description,
        }
        for name, field in Limits.model_fields.items()
    }


@router.get(
    "/metrics",
    summary="For Prometheus",
    response_class=Response,
    responses={
        **errors(401),
        200: {
            "description": "all counters",
            "content": {"text/plain": {"example": 'sr_frames_total{kind="job"} 1800.0'}},
        },
    },
)
async def metrics(service: ServiceDependency) -> Response:
    """The text format of Prometheus."""
    return Response(service.expose_metrics(), media_type="text/plain; version=0.0.4")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """The API as OpenAPI."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API as a page that loads nothing from elsewhere."""
    return HTMLResponse(docs_page(request.app.openapi()))


@router.get("/", include_in_schema=False)
async def index() -> Response:
    """The page."""
    return _page_file("index.html")


@router.get("/app.js", include_in_schema=False)
async def script() -> Response:
    """The page's script."""
    return _page_file("app.js")


@router.get("/favicon.ico", include_in_schema=False)
async def favicon() -> Response:
    """None; so that browsers do not ask again and again."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})


@router.get("/style.css", include_in_schema=False)
async def style() -> Response:
    """The page's and the documentation's style."""
    return _page_file("style.css")


@router.get("/sample.png", include_in_schema=False)
async def sample_picture() -> Response:
    """A small picture to try the page with."""
    return _page_file("sample.png")


@router.get("/sample.mp4", include_in_schema=False)
async def sample_clip() -> Response:
    """A small clip to try the page with."""
    return _page_file("sample.mp4")


def _page_file(name: str) -> Response:
    content = (resources.files("server") / "page" / name).read_bytes()
    return Response(content, media_type=_PAGE_FILES[name], headers={"Cache-Control": "no-cache"})
