"""A job as it grows, for players: an HLS playlist and the fragments it names."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from server.errors import ApiError
from server.jobs.model import Job
from server.media.errors import DiskFull, EncodeError
from server.playback import INIT, StreamIndex
from server.requests import CallerDependency, ServiceDependency, errors
from server.service import Service
from server.streams import StreamResponse, asked_range, file_chunks

router = APIRouter(tags=["jobs"])

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"


async def playable_job(job_id: str, service: ServiceDependency, caller: CallerDependency) -> Job:
    """The caller's job, or the one that a signed link opens. Raises ApiError 404."""
    job = await asyncio.to_thread(service.store.get, job_id)
    if job is None or caller.owner not in ("", job.owner):
        raise ApiError("not_found", "there is no such job")
    return job


PlayableJob = Annotated[Job, Depends(playable_job)]


@router.get(
    "/jobs/{job_id}/playlist.m3u8",
    summary="The video while it is made, as HLS",
    response_class=Response,
    responses={
        **errors(401, 404),
        200: {
            "description": "An EVENT playlist of fragmented MP4, one entry per finished segment, "
            "with `#EXT-X-ENDLIST` once the job is done. The header `X-SR-Codecs` is the type of "
            "the fragments. Picture only; the result has the sound.",
            "content": {PLAYLIST_TYPE: {"example": "#EXTM3U\n#EXT-X-VERSION:7\n…"}},
        },
    },
)
async def playlist(job: PlayableJob, request: Request, service: ServiceDependency) -> Response:
    """Without entries until the first segment is finished; 404 for a job that failed.

    A signed link (`POST …/link`) needs no key.

    Example: `vlc http://127.0.0.1:8000/jobs/ID/playlist.m3u8`
    """
    if job.kind != "job" or job.state in ("failed", "cancelled"):
        raise ApiError("not_found", f"the video of this job is not kept: it is {job.state}")
    index = await _index(job, service)
    if index is None:
        waiting = StreamIndex(target_seconds=math.ceil(service.settings.segment_seconds + 1))
        return Response(waiting.playlist(), media_type=PLAYLIST_TYPE)
    query = f"?{request.url.query}" if "signature" in request.query_params else ""
    headers = {"X-SR-Codecs": f'video/mp4; codecs="{index.codecs}"'}
    return Response(index.playlist(query), 200, headers, PLAYLIST_TYPE)


async def _index(job: Job, service: Service) -> StreamIndex | None:
    try:
        return await service.playback.index(job)
    except DiskFull as error:
        raise ApiError("disk_full", str(error)) from error
    except EncodeError as error:
        raise ApiError("internal", str(error)) from error


@router.get(
    "/jobs/{job_id}/stream/{name}",
    summary="The head or a fragment of the playlist",
    response_class=Response,
    responses={
        **errors(401, 404, 416),
        200: {"description": "all of it", "content": {"video/mp4": {}}},
        206: {"description": "the range that was asked for", "content": {"video/mp4": {}}},
    },
)
async def fragment(
    job: PlayableJob,
    name: Annotated[str, Path(pattern=rf"^({INIT}|[0-9]{{1,6}}\.m4s)$")],
    request: Request,
    service: ServiceDependency,
) -> Response:
    """`init.mp4` and `0.m4s`, `1.m4s`, … as the playlist names them; one `Range` at most."""
    path = await asyncio.to_thread(service.playback.file, job, name)
    if path is None:
        raise ApiError("not_found", "the playlist of this job has no such entry")
    size = path.stat().st_size
    part = asked_range(request.headers, size, None)
    first, last = part or (0, size - 1)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return StreamResponse(
        file_chunks(path, first, last),
        headers,
        "video/mp4",
        status=206 if part else 200,
        slow_reader_seconds=service.limits.slow_reader_seconds,
    )
