"""A small client for sr-server: pictures, videos, jobs.

from server.client import Client

with Client("http://127.0.0.1:8000") as client:
    client.upscale(Path("in.png"), Path("out.png"))
    job = client.submit(Path("long.mp4"))
    for seen in client.watch(job["id"]):
        print(seen["frames"], seen["fps"], seen["eta_seconds"])
    client.fetch(job["id"], Path("long_x4.mp4"))
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from engine.closing import Closing
from server.jobs.model import FINISHED

Job = dict[str, Any]
"""As ``GET /jobs/{id}`` shows it."""

QUIET_SECONDS = 60.0
"""Events without even a heartbeat (15 s) for this long come from nobody any more."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.25, 8.0
_SUBMIT_PAUSES_SECONDS = (0.5, 2.0, 8.0)
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses of a server, or of a proxy before it, that will soon answer otherwise."""


class ServerError(Exception):
    """The server refused or failed.

    ``status`` and ``code`` are for programs, the message is for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Client(Closing):
    """One connection pool to one server.

    Args:
        url: of the server, e.g. ``http://127.0.0.1:8000``.
        key: API key, where one is needed.
        transport: for tests; None is the network.
        sleep: for tests; waits for so many seconds.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A streamed video is quiet for as long as a frame takes: no read limit.
        timeout = httpx.Timeout(30, read=None)
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )

    def upscale(self, source: Path, output: Path, **query: str | int) -> dict[str, str]:
        """Makes a picture or a video four times larger; ``output`` appears only when it is whole.

        Args:
            source: the media.
            output: where the result goes.
            **query: ``format``, ``height``, ``codec``, … as in the API.

        Returns:
            the headers of the answer, e.g. ``x-sr-backend``.

        Raises:
            ServerError: the server said no.
            httpx.TransportError: the connection broke, also when the server failed midway.
        """
        with source.open("rb") as body:
            request = self._http.build_request("POST", "/upscale", params=query, content=body)
            return self._save(request, output)

    def submit(self, source: Path, **query: str | int) -> Job:
        """Queues a video. When the connection breaks it is sent again, and it is still one job.

        Raises:
            ServerError: the server said no.
            httpx.TransportError: the connection broke each time.
        """
        once = uuid.uuid4().hex
        for pause in _SUBMIT_PAUSES_SECONDS:
            try:
                return self._submit(source, query, once)
            except httpx.TransportError:
                self._sleep(pause)
        return self._submit(source, query, once)

    def estimate(self, source: Path, **query: str | int) -> dict[str, Any]:
        """What a job would take; nothing is kept. Raises ServerError."""
        with source.open("rb") as body:
            return self._json("POST", "/jobs", params={**query, "dry_run": 1}, content=body)

    def job(self, job_id: str) -> Job:
        """One job. Raises ServerError."""
        return self._json("GET", f"/jobs/{job_id}")

    def jobs(self) -> list[Job]:
        """Your jobs, newest first. Raises ServerError."""
        found: list[Job] = self._json("GET", "/jobs")["jobs"]
        return found

    def watch(self, job_id: str, *, patience_seconds: float = 600.0) -> Iterator[Job]:
        """The job now and after every change; the last one has ended.

        A connection that breaks is made again: a job survives a restart of the server.

        Args:
            job_id: of the job.
            patience_seconds: waits this long in all without news, then raises what was wrong last.

        Raises:
            ServerError: the server said no, e.g. to a job that was deleted meanwhile.
            httpx.TransportError: the server cannot be reached.
        """
        waited, pause = 0.0, _FIRST_WAIT_SECONDS
        while True:
            try:
                for job in self._events(job_id):
                    waited, pause = 0.0, _FIRST_WAIT_SECONDS
                    yield job
                    if job["state"] in FINISHED:
                        return
                raise httpx.RemoteProtocolError("the events ended before the job did")
            except (httpx.TransportError, ServerError) as error:
                passes = not isinstance(error, ServerError) or error.status in _PASSING
                if not passes or waited >= patience_seconds:
                    raise
            self._sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_WAIT_SECONDS)

    def preview(self, job_id: str) -> bytes:
        """The newest frame as JPEG, at most 1280 pixels a side. Raises ServerError: none yet."""
        answer = self._http.get(f"/jobs/{job_id}/preview")
        _check(answer)
        return answer.content

    def link(self, job_id: str, seconds: int | None = None) -> dict[str, Any]:
        """Addresses that need no key until they expire: to be given away. Raises ServerError.

        Args:
            job_id: of the job.
            seconds: how long they are valid; None is what the server allows (``SR_LINK_SECONDS``).

        Returns:
            ``url`` of the result, ``playlist`` of the video while it is made (both whole), and
            ``expires`` in seconds since 1970.
        """
        query = {} if seconds is None else {"seconds": seconds}
        made = self._json("POST", f"/jobs/{job_id}/link", params=query)
        for name in ("url", "playlist"):
            made[name] = str(self._http.base_url.join(made[name]))
        return made

    def fetch(self, job_id: str, output: Path) -> None:
        """Saves the result; ``output`` appears only when it is whole. Raises ServerError."""
        self._save(self._http.build_request("GET", f"/jobs/{job_id}/result"), output)

    def cancel(self, job_id: str) -> Job:
        """Stops a job. Raises ServerError."""
        return self._json("POST", f"/jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Removes a job with all its bytes. Raises ServerError."""
        _check(self._http.delete(f"/jobs/{job_id}"))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _submit(self, source: Path, query: dict[str, str | int], once: str) -> Job:
        headers = {"Idempotency-Key": once}
        with source.open("rb") as body:
            return self._json("POST", "/jobs", params=query, content=body, headers=headers)

    def _events(self, job_id: str) -> Iterator[Job]:
        timeout = httpx.Timeout(30, read=QUIET_SECONDS)
        with self._http.stream("GET", f"/jobs/{job_id}/events", timeout=timeout) as answer:
            _check(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._http.request(method, path, **options)
        _check(answer)
        body: dict[str, Any] = answer.json()
        return body

    def _save(self, request: httpx.Request, output: Path) -> dict[str, str]:
        answer = self._http.send(request, stream=True)
        partial = output.with_name(output.name + ".partial")
        try:
            _check(answer)
            with partial.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
            partial.replace(output)
            return dict(answer.headers)
        finally:
            answer.close()
            partial.unlink(missing_ok=True)


def _check(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    answer.read()
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError):  # a proxy's own page
        raise ServerError(answer.status_code, "unknown", answer.reason_phrase) from None
    raise ServerError(answer.status_code, error["code"], error["message"])
