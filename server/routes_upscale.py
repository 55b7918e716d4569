"""``POST /upscale``: a picture comes back, a video is streamed back while it is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.errors import ApiError
from server.jobs.model import STOPPED_STREAM, Job, new_job_id
from server.metrics import FramesMade
from server.requests import (
    RESPONSES,
    caller_of,
    overload,
    service_of,
    upscale_parameters,
    upscale_query_of,
)
from server.service import Service
from server.streams import ResultPipe, StreamResponse, file_chunks, pipe_chunks
from server.uploads import Upload, receive_upload
from server.workers.channel import Message
from server.workers.settling import WorkerLost
from server.workers.ticket import Ticket, TicketCancelled, ignore

router = APIRouter(tags=["upscale"])

Result = TypeVar("Result")

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The media itself, or a multipart form with one part named `file`.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "video/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
"""For OpenAPI: the body that ``/upscale`` and ``/jobs`` take."""

INLINE_BYTES = 64 * 1024
"""A picture up to this size is sent in one piece: it fits the socket's buffer, so no reader is
waited for, and two tasks and three turns of a thread cost more than reading it."""

VIDEO_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska"}


@router.post(
    "/upscale",
    summary="Make a picture or a video four times larger",
    response_class=Response,
    openapi_extra={**BODY, "parameters": upscale_parameters()},
    responses={
        **RESPONSES,
        200: {
            "description": "The result. `X-SR-Backend` and `X-SR-Model` say who made it, "
            "`Server-Timing` (pictures) how long it took, `X-SR-Job` (videos) where its "
            "manifest is.",
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "video/mp4": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    },
)
async def upscale(request: Request) -> Response:
    """A picture in, a picture out; a video in, the x4 video out while it is made."""
    # Asked for here: as parameters they cost more than all the rest of a small picture's request.
    query, service, caller = (
        upscale_query_of(request),
        await service_of(request),
        await caller_of(request),
    )
    problem = overload(service)
    if problem is not None:
        raise problem
    with ExitStack() as stack:
        source, result, pipe = stack.enter_context(service.spooled("input", "result", "pipe"))
        try:
            with service.arrivals.counted():
                upload = await receive_upload(
                    request, source, service.limits, service.limits.max_video_bytes
                )
        except ClientDisconnect:
            return Response(status_code=499)
        options = query.options_for(upload.media.kind)
        if upload.media.kind == "picture":
            return await _picture(request, service, upload, result, options)
        opening = _Stream.open(service, caller.owner, upload, pipe, options)
        try:
            # No byte is there for a while, and a client may leave before there is one.
            stream = await _while_connected(request, opening)
        except ClientDisconnect:
            return Response(status_code=499)
        stack.pop_all()  # the response removes the files when it ends
        return stream.response()


async def _picture(
    request: Request, service: Service, upload: Upload, result: Path, options: dict[str, Any]
) -> Response:
    result.touch(0o600)  # what a worker fills is never left behind by one that comes too late
    ticket = Ticket(
        "picture",
        {
            "kind": "picture",
            "source": str(upload.path),
            "result": str(result),
            "options": options,
        },
        total_seconds=service.limits.picture_seconds,
        retries=1,
    )
    try:
        # Before anything is waited for: until then nothing would count this one, and a burst that
        # comes in one turn of the loop would be let in as a whole.
        service.pool.submit(ticket)
        made = await _made(request, service, ticket)
    except TicketCancelled:
        service.refuse_when_stopping()
        return Response(status_code=499)
    except ApiError as error:
        service.metrics.tasks.labels("picture", error.code).inc()
        raise
    finally:
        if not ticket.outcome.done():
            service.pool.cancel(ticket)
    service.metrics.tasks.labels("picture", "done").inc()
    service.metrics.frames.labels("picture").inc()
    service.metrics.stages.observe("picture", made["stages_ms"])
    size = result.stat().st_size
    headers = _picture_headers(made, size)
    if size <= INLINE_BYTES:
        return Response(result.read_bytes(), 200, headers, made["media_type"])
    return StreamResponse(
        file_chunks(result.rename(result.with_suffix(".sending")), delete=True),
        headers,
        made["media_type"],
        slow_reader_seconds=service.limits.slow_reader_seconds,
    )


async def _made(request: Request, service: Service, ticket: Ticket) -> Message:
    """What became of a picture that was submitted, unless its client leaves before."""
    leaving = asyncio.ensure_future(_left(request))
    try:
        return await service.pool.result(ticket, service.limits.queue_seconds, leaving)
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


def _picture_headers(made: Message, size: int) -> dict[str, str]:
    timing = ", ".join(f"{stage};dur={spent}" for stage, spent in made["stages_ms"].items())
    headers = {
        **engine_headers(made["engine"]),
        "Server-Timing": timing,
        "Content-Length": str(size),
        "Content-Disposition": f'inline; filename="upscaled.{made["format"]}"',
    }
    if made["notes"]:
        notes = "; ".join(made["notes"])
        headers["X-SR-Notes"] = notes.encode("ascii", "replace").decode()[:1000]
    return headers


def engine_headers(engine: Message) -> dict[str, str]:
    """The headers that say who really ran the frames."""
    return {"X-SR-Backend": str(engine["name"]), "X-SR-Model": str(engine["model"] or "none")}


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client leaves.

    Raises:
        ClientDisconnect: it left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream:
    """A video on its way through a worker into a response, and the job row that tells of it."""

    def __init__(self, service: Service, job: Job, task: Message) -> None:
        self._service = service
        self._job = job
        self._task = task
        self._made = FramesMade(service.metrics.frames.labels("video"))
        self._ticket = self._new_ticket()
        self._pipe = ResultPipe(Path(task["pipe"]))
        self._source = Path(task["source"])
        self._first = b""
        self._response: StreamResponse | None = None
        self._chunks: Any = None

    @classmethod
    async def open(
        cls, service: Service, owner: str, upload: Upload, path: Path, options: dict[str, Any]
    ) -> _Stream:
        """Starts the work; returns when its first bytes are there, so that most errors are early.

        Raises:
            ApiError: what is wrong with the video, or that nobody is free for it.
        """
        job = Job(
            id=new_job_id(),
            owner=owner,
            kind="stream",
            state="running",
            created_at=time.time(),
            started_at=time.time(),
            options=options,
            input_bytes=upload.size,
        )
        task = {
            "kind": "video",
            "source": str(upload.path),
            "pipe": str(path),
            "options": options,
        }
        stream = cls(service, job, task)
        try:
            await stream._begin()
        except BaseException as error:
            await asyncio.shield(stream._end(error))
            raise
        return stream

    async def _begin(self) -> None:
        service = self._service
        self._submit()
        await asyncio.to_thread(service.store.insert, self._job)
        try:
            await self._receive_first()
        except WorkerLost:  # it left no byte, so another one can begin anew
            self._pipe.close()
            self._pipe, self._ticket = ResultPipe(self._pipe.path), self._new_ticket()
            self._submit()
            await self._receive_first()

    def _new_ticket(self) -> Ticket:
        return Ticket(
            "video",
            self._task,
            on_event=self._hear,
            stall_seconds=self._service.limits.stall_seconds,
        )

    def _hear(self, message: Message) -> None:
        self._made.see(message.get("frames"))
        self._service.jobs.set_progress(self._job.id, message)

    def _submit(self) -> None:
        self._service.pool.submit(self._ticket)
        self._service.jobs.adopt(self._job.id, self._ticket)

    async def _receive_first(self) -> None:
        """Waits for the first bytes of what was submitted. Raises ApiError."""
        service = self._service
        reader = await self._pipe.open()
        await service.pool.wait_started(self._ticket, service.limits.queue_seconds)
        self._chunks = pipe_chunks(self._pipe, reader, self._ticket.outcome)
        self._first = await anext(self._chunks, b"")

    def response(self) -> StreamResponse:
        """Sends the video on as it comes."""
        container = self._job.options.get("format", "mp4")
        self._response = StreamResponse(
            self._all_chunks(),
            {
                **engine_headers(self._ticket.engine),
                "X-SR-Job": self._job.id,
                "Content-Disposition": f'inline; filename="upscaled.{container}"',
            },
            VIDEO_TYPES[container],
            slow_reader_seconds=self._service.limits.slow_reader_seconds,
            on_wait=lambda _: self._ticket.touch(),
        )
        return self._response

    async def _all_chunks(self) -> Any:
        error: BaseException | None = None
        try:
            yield self._first
            async for chunk in self._chunks:
                yield chunk
        except BaseException as failure:
            error = failure
            raise
        finally:
            await asyncio.shield(self._end(error))

    async def _end(self, error: BaseException | None) -> None:
        """Frees the worker, removes the files and writes how it ended."""
        outcome = self._ticket.outcome
        frames = self._service.jobs.progress(self._job).frames
        self._ticket.on_event = ignore
        self._service.jobs.release(self._job.id)
        self._service.pool.cancel(self._ticket)
        self._pipe.close()
        self._source.unlink(missing_ok=True)
        if error is None and outcome.done() and not outcome.exception():
            await self._write_done(outcome.result())
            return
        failure = outcome.exception() if outcome.done() and not outcome.cancelled() else error
        if not isinstance(failure, ApiError) and self._was_cut_off():
            failure = ApiError("stopping", STOPPED_STREAM)
        end: dict[str, Any] = {"state": "cancelled", "frames": frames}
        if isinstance(failure, ApiError):
            end |= {"state": "failed", "error": failure.to_dict()}
        ending = failure.code if isinstance(failure, ApiError) else "cancelled"
        self._service.metrics.tasks.labels("video", ending).inc()
        await self._service.jobs.finish(self._job.id, **end)

    def _was_cut_off(self) -> bool:
        """Whether it ends because the server does, and not because its reader has left."""
        left = self._response is not None and self._response.reader_has_left
        return self._service.is_stopping and not left

    async def _write_done(self, result: Message) -> None:
        metrics = self._service.metrics
        metrics.tasks.labels("video", "done").inc()
        self._made.see(result["frames"])
        metrics.stages.add_times("video", result["stages"])
        self._service.jobs.throughput.add(result["manifest"])
        metrics.fps.set(result["fps"])
        await self._service.jobs.finish(
            self._job.id,
            state="done",
            frames=result["frames"],
            frames_total=result["frames"],
            manifest=result["manifest"],
        )
