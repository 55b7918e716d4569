"""``/jobs``: long videos that survive a restart, watched, fetched, cancelled, deleted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response

from server.errors import ApiError
from server.file_names import attachment, result_name
from server.jobs.admission import Arrival
from server.jobs.estimate import estimate
from server.jobs.model import Job, new_job_id
from server.jobs.view import JobList, JobView, LinkView, job_view
from server.limits import check_disk
from server.requests import (
    RESPONSES,
    CallerDependency,
    ServiceDependency,
    UpscaleQuery,
    errors,
)
from server.routes_upscale import BODY
from server.service import Service
from server.streams import StreamResponse, asked_range, file_chunks
from server.uploads import Upload, least_body_bytes, receive_upload
from server.workers.ticket import Ticket, TicketCancelled

router = APIRouter(tags=["jobs"])

HEARTBEAT_SECONDS = 15.0
"""A comment on a quiet event stream, so that no proxy closes it."""


class JobQuery(UpscaleQuery):
    """The query of ``POST /jobs``."""

    dry_run: bool = False
    """Only say what the job would take."""


async def own_job(job_id: str, service: ServiceDependency, caller: CallerDependency) -> Job:
    """The caller's job. Raises ApiError 404 for none, and for somebody else's."""
    job = await asyncio.to_thread(service.store.get, job_id)
    if job is None or job.owner != caller.owner:
        raise ApiError("not_found", "there is no such job")
    return job


OwnJob = Annotated[Job, Depends(own_job)]


@router.post(
    "/jobs",
    status_code=202,
    summary="Submit a video",
    response_model=JobView,
    openapi_extra=BODY,
    responses={**RESPONSES, 200: {"description": "the answer to a dry run"}},
)
async def submit(
    request: Request,
    query: Annotated[JobQuery, Query()],
    service: ServiceDependency,
    caller: CallerDependency,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Queues a video. With `dry_run=1` nothing is kept: the answer is an estimate, whose
    bytes depend on the content by a factor of 2.5 up and down.

    The same `Idempotency-Key` with the same body and query gives the same job, however often it
    is sent, and also when the limits would let no new one in. The result is named after the file
    that a form or a header `Content-Disposition` names.
    """
    service.refuse_when_stopping()
    options = query.options_for("video")
    try:
        if query.dry_run:
            return JSONResponse(await _dry_run(request, service, options))
        job = await _receive_job(request, service, caller.owner, options, idempotency_key)
    except ClientDisconnect:
        return Response(status_code=499)
    service.jobs.notice()
    body = job_view(job, service.jobs.progress(job)).model_dump(mode="json")
    return JSONResponse(body, 202, {"Location": f"/jobs/{job.id}"})


async def _receive_job(
    request: Request,
    service: Service,
    owner: str,
    options: dict[str, Any],
    idempotency_key: str | None,
) -> Job:
    """Reserves a place, receives the body and makes it a job; or finds the one that it is."""
    folder = service.jobs.folder(new_job_id())
    folder.path.mkdir(mode=0o700)
    kept = False
    try:
        arrival = Arrival(owner, idempotency_key, folder.input, least_body_bytes(request))
        async with service.admission.reserved(arrival):
            upload = await _receive_video(request, service, folder.input)
            job = await _keep(service, arrival, upload, options)
            kept = job.id == folder.path.name
            return job
    finally:
        if not kept:
            await asyncio.to_thread(_remove_folder, folder.path)


async def _receive_video(request: Request, service: Service, path: Path) -> Upload:
    upload = await receive_upload(request, path, service.limits, service.limits.max_job_bytes)
    if upload.media.kind != "video":
        raise ApiError("unsupported_media", "jobs are for videos; send a picture to /upscale")
    return upload


async def _keep(service: Service, arrival: Arrival, upload: Upload, options: dict[str, Any]) -> Job:
    """Makes the promise: the input is on disk before the row says so."""
    folder = upload.path.parent
    check_disk(folder, upload.size, service.limits)  # a result is rarely smaller
    await asyncio.to_thread(_sync_upload, folder, upload.path)
    job = Job(
        id=folder.name,
        owner=arrival.owner,
        kind="job",
        state="queued",
        created_at=time.time(),
        options=_as_json(options),  # a size is a list there, as it is in a row
        input_bytes=upload.size,
        input_sha256=upload.sha256,
        input_name=upload.name,
        idempotency_key=arrival.idempotency_key,
    )
    stored = await asyncio.to_thread(service.admission.keep, job, arrival)
    if (stored.input_sha256, stored.options) != (job.input_sha256, job.options):
        raise ApiError(
            "idempotency_mismatch", "this Idempotency-Key was used for another body or query"
        )
    return stored


def _download_name(job: Job, suffix: str) -> str:
    """After the file that was sent, where its name is known."""
    if job.input_name is None:
        return f"upscaled-{job.id[:8]}{suffix}"
    return result_name(job.input_name, suffix)


def _as_json(options: dict[str, Any]) -> Any:
    return json.loads(json.dumps(options))


def _sync_upload(folder: Path, file: Path) -> None:
    for path in (file, folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


async def _dry_run(request: Request, service: Service, options: dict[str, Any]) -> dict[str, Any]:
    """What the video would take; nothing of it is kept."""
    with service.spooled("input") as (path,):
        upload = await _receive_video(request, service, path)
        ticket = Ticket(
            "picture",
            {"kind": "probe", "source": str(upload.path)},
            total_seconds=service.limits.picture_seconds,
            retries=1,
        )
        try:
            probe = await service.pool.run(ticket, service.limits.queue_seconds)
        except TicketCancelled:
            raise ApiError("stopping", "the server is stopping; try again in a moment") from None
    measured = service.measurement.result
    return estimate(probe, options, upload.size, measured, service.jobs.throughput)


@router.get("/jobs", summary="Your jobs, newest first", response_model=JobList)
async def list_jobs(
    service: ServiceDependency,
    caller: CallerDependency,
    count: Annotated[int, Query(ge=1, le=500)] = 100,
) -> JobList:
    """Every job of this caller that was not deleted and has not expired."""
    jobs = await asyncio.to_thread(service.store.newest, caller.owner, count)
    return JobList(jobs=[job_view(job, service.jobs.progress(job)) for job in jobs])


@router.get("/jobs/{job_id}", summary="One job", response_model=JobView, responses=errors(401, 404))
async def get_job(job: OwnJob, service: ServiceDependency) -> JobView:
    """State, progress and, once it is done, the manifest."""
    return job_view(job, service.jobs.progress(job))


@router.get(
    "/jobs/{job_id}/events",
    summary="Progress as server-sent events",
    response_class=Response,
    responses={
        **errors(401, 404),
        200: {
            "description": "Events named `progress` and at last `end`; the data of each is the "
            "job as `GET /jobs/{job_id}` shows it.",
            "content": {"text/event-stream": {"example": 'event: progress\ndata: {"state": …}'}},
        },
    },
)
async def job_events(job: OwnJob, service: ServiceDependency) -> Response:
    """One event now, one after every change, and `end` when the job has ended.

    A connection that breaks before `end`, e.g. because the server stops, is to be made again: the
    job goes on.
    """
    return StreamResponse(
        _events(service, job.id),
        {"X-Accel-Buffering": "no"},
        "text/event-stream",
        slow_reader_seconds=service.limits.slow_reader_seconds,
    )


async def _events(service: Service, job_id: str) -> AsyncIterator[bytes]:
    jobs = service.jobs.watch(job_id)
    async with contextlib.aclosing(jobs):  # type: ignore[type-var]
        while True:
            following = asyncio.ensure_future(anext(jobs, None))
            try:
                while not (await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS))[0]:
                    yield b": still here\n\n"
            finally:  # also when the reader has left
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            job = following.result()
            if job is None:
                return
            view = job_view(job, service.jobs.progress(job)).model_dump_json()
            name = "end" if job.is_finished else "progress"
            yield f"event: {name}\ndata: {view}\n\n".encode()


@router.head("/jobs/{job_id}/result", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/result",
    summary="The finished video",
    response_class=Response,
    responses={
        **errors(401, 404, 409, 416),
        200: {"description": "all of it", "content": {"video/mp4": {}}},
        206: {"description": "the range that was asked for", "content": {"video/mp4": {}}},
    },
)
async def job_result(
    job_id: str, request: Request, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """The result, or one `Range` of it. A signed link needs no key."""
    signed = caller.owner == ""
    job = await asyncio.to_thread(service.store.get, job_id)
    if job is None or not (signed or job.owner == caller.owner):
        raise ApiError("not_found", "there is no such job")
    if job.state != "done":
        raise ApiError(
            "not_finished", f"the job is {job.state}; it has no result", actual=job.state
        )
    if job.result_name is None:
        raise ApiError("not_finished", "a streamed video is not kept; only its manifest is")
    path = service.jobs.folder(job.id).path / job.result_name
    size = path.stat().st_size
    etag = f'"{job.id}"'
    part = asked_range(request.headers, size, etag)
    first, last = part or (0, size - 1)
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Length": str(last - first + 1),
        "Content-Disposition": attachment(_download_name(job, path.suffix)),
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return StreamResponse(
        file_chunks(path, first, last),
        headers,
        job.result_type or "application/octet-stream",
        status=206 if part else 200,
        slow_reader_seconds=service.limits.slow_reader_seconds,
    )


@router.get(
    "/jobs/{job_id}/preview",
    summary="The newest frame as JPEG",
    response_class=Response,
    responses={
        **errors(401, 404),
        200: {"description": "a picture", "content": {"image/jpeg": {}}},
    },
)
async def job_preview(job: OwnJob, service: ServiceDependency) -> Response:
    """At most 1280 pixels a side, replaced about every second while the job runs."""
    path = service.jobs.folder(job.id).preview
    if not path.is_file():
        raise ApiError("not_found", "there is no preview of this job yet")
    return FileResponse(path, media_type="image/jpeg")


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Stop a job",
    response_model=JobView,
    responses=errors(401, 404, 409),
)
async def cancel_job(job: OwnJob, service: ServiceDependency) -> JobView:
    """Stops it now; its row stays, as cancelled."""
    if job.is_finished:
        raise ApiError("conflict", f"the job is {job.state} already", actual=job.state)
    await service.jobs.cancel(job)
    stopped = await asyncio.to_thread(service.store.get, job.id) or job
    return job_view(stopped, service.jobs.progress(stopped))


@router.delete(
    "/jobs/{job_id}", status_code=204, summary="Delete a job", responses=errors(401, 404)
)
async def delete_job(job: OwnJob, service: ServiceDependency) -> Response:
    """Stops it when it is running, then removes it with everything it has on disk."""
    await service.jobs.delete(job)
    return Response(status_code=204)


@router.post(
    "/jobs/{job_id}/link",
    summary="A link to the result that needs no key",
    response_model=LinkView,
    responses=errors(401, 404),
)
async def job_link(
    job: OwnJob,
    service: ServiceDependency,
    seconds: Annotated[int | None, Query(ge=1, le=604_800)] = None,
) -> LinkView:
    """Signed, for the result and the playlist of this job only, until it expires."""
    expires = int(time.time()) + (seconds or service.limits.link_seconds)
    signature = service.signer.sign(job.id, expires)
    signed = f"?expires={expires}&signature={signature}"
    return LinkView(
        url=f"/jobs/{job.id}/result{signed}",
        playlist=f"/jobs/{job.id}/playlist.m3u8{signed}",
        expires=expires,
    )
