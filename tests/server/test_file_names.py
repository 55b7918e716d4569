"""Names of users' files are cleaned where they come in and given back with the result."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.file_names import attachment, clean_name, result_name, sent_name
from server.jobs.model import Job
from server.jobs.store import _SCHEMA, JobStore
from tests.server.test_limits import CLIP, app, check, job


@pytest.mark.parametrize(
    ("sent", "clean"),
    [
        ("city.mp4", "city.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\a.mov", "a.mov"),
        ("a\r\nSet-Cookie: b.mp4", "a Set-Cookie_ b.mp4"),
        ("\u202egpj.mp4", "gpj.mp4"),
        ('a"b;c.mp4', "a_b;c.mp4"),
        ("sta\u0308dte.mp4", "st\u00e4dte.mp4"),
        ("  .hidden  name. ", "hidden name"),
        ("x" * 300 + ".mp4", "x" * 96 + ".mp4"),
        ("x" * 300, "x" * 100),
        ("..", None),
        ("\ud800", None),
        ("", None),
    ],
)
def test_a_name_is_what_a_person_may_see_of_it(sent: str, clean: str | None) -> None:
    assert clean_name(sent) == clean


@given(st.text())
def test_every_name_becomes_one_of_a_file_in_one_header_line(text: str) -> None:
    name = clean_name(text)
    if name is None:
        return
    assert clean_name(name) == name
    assert not re.search(r'[/\\<>:"|?*\x00-\x1f\x7f]', name)
    assert 0 < len(name) <= 100
    header = attachment(result_name(name, ".mp4"))
    assert re.fullmatch(r"attachment; filename=\"[ !#-\[\]-~]+\"(; filename\*=UTF-8''\S+)?", header)
    extended = header.partition("UTF-8''")[2]
    assert not extended or unquote(extended) == result_name(name, ".mp4")


@given(st.binary(max_size=200))
def test_any_header_gives_a_clean_name_or_none(header: bytes) -> None:
    for each in (header, b"attachment; filename=" + header, b"a; filename*=UTF-8''" + header):
        name = sent_name(each)
        assert name is None or clean_name(name) == name


def of_form(name: str) -> Any:
    return {"files": {"file": (name, CLIP)}}


def of_header(value: str) -> Any:
    return {"content": CLIP, "headers": {"Content-Disposition": value}}


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (of_form("/films/städte.mov"), "städte.mov"),
        (of_header('attachment; filename="a b.mp4"'), "a b.mp4"),
        (of_header(f"attachment; filename*=UTF-8''{quote('日本.mp4')}"), "日本.mp4"),
        (of_header("attachment"), None),
        ({"content": CLIP}, None),
    ],
)
def test_a_job_remembers_what_its_sender_calls_it(
    tmp_path: Path, sent: Any, name: str | None
) -> None:
    async def test() -> None:
        async with app(tmp_path) as (client, service):
            made = await client.post("/jobs", **sent)
            assert (made.status_code, made.json()["input_name"]) == (202, name)
            folder = service.jobs.folder(made.json()["id"])
            assert [path.name for path in folder.path.iterdir()] == ["input"]

    check(test)


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [
        (None, "upscaled-aaaaaaaa.mkv"),
        ("city.mp4", "city_x4.mkv"),
        ("städte.tar.mov", "städte.tar_x4.mkv"),
    ],
)
def test_a_result_is_saved_under_the_name_of_its_input(
    tmp_path: Path, name: str | None, saved_as: str
) -> None:
    async def fetch() -> httpx.Response:
        async with app(tmp_path) as (client, service):
            service.store.insert(job(state="done", input_name=name, result_name="result.mkv"))
            folder = service.jobs.folder("a" * 32)
            folder.path.mkdir()
            (folder.path / "result.mkv").write_bytes(b"video")
            return await client.get(f"/jobs/{'a' * 32}/result")

    answer = asyncio.run(asyncio.wait_for(fetch(), 60))
    assert (answer.status_code, answer.content) == (200, b"video")
    header = answer.headers["Content-Disposition"]
    assert (f'filename="{saved_as}"' in header) == saved_as.isascii()
    if not saved_as.isascii():
        assert header.endswith(f"; filename*=UTF-8''{quote(saved_as)}")


def test_jobs_of_an_earlier_version_are_read_and_have_no_name(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    earlier = sqlite3.connect(path)
    earlier.executescript(_SCHEMA)
    earlier.execute(
        "INSERT INTO jobs (id, owner, kind, state, created_at, options, input_bytes, input_sha256, "
        "frames, result_bytes) VALUES ('x', 'a', 'job', 'done', 1.0, '{}', 0, '', 0, 0)"
    )
    earlier.commit()
    earlier.close()
    for _ in range(2):
        store = JobStore(path)
        assert store.newest("a", 9) == [Job("x", "a", "job", "done", 1.0)]
        store.close()
