"""Generated requests (schemathesis) for every operation that the API describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.live import LiveServer, wait_until

_SECONDS = 30.0


@dataclass
class Generated:
    """What became of them."""

    operations: int = 0
    cases: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    server_errors: list[str] = field(default_factory=list)
    """As curl commands. 503 and 507 are refusals, not errors."""


def run_generated(server: LiveServer, cases: int, clip: bytes) -> Generated:
    """About ``cases`` valid and invalid requests, spread over all operations.

    ``clip`` becomes a finished job for each operation on jobs, so that not all of them are 404.
    """
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    # Events are a stream; everything else ends by itself.
    operations = [
        operation
        for operation in (result.ok() for result in schema.get_all_operations())
        if not operation.path.endswith("/events")
    ]
    found = Generated(len(operations))
    while found.cases < cases:  # an operation with few different requests ends early
        before = found.cases
        share = -(-(cases - before) // len(operations))
        for operation in operations:
            job_id = _finished_job(server, clip) if "{job_id}" in operation.path else None
            _try(operation, server.url, share, found, job_id)
        if found.cases - before < len(operations) * 2:
            break
    return found


def _finished_job(server: LiveServer, clip: bytes) -> str:
    with server.client() as client:
        job_id = str(client.post("/jobs?height=48", content=clip).json()["id"])
        wait_until(lambda: client.get(f"/jobs/{job_id}").json()["state"] == "done", "the job")
    return job_id


def _try(operation: Any, url: str, cases: int, found: Generated, job_id: str | None) -> None:
    positive = operation.as_strategy()
    negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(positive, negative))
    def check(case: schemathesis.Case) -> None:
        if job_id is not None and found.cases % 2:
            case.path_parameters["job_id"] = job_id
        response = case.call(base_url=url, timeout=_SECONDS)
        found.cases += 1
        status = str(response.status_code)
        found.statuses[status] = found.statuses.get(status, 0) + 1
        if status[0] == "5" and status not in ("503", "507"):
            found.server_errors.append(f"{status}: {case.as_curl_command()}")

    check()
