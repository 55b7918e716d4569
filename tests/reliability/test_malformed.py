"""Malformed files against a real server: some of those that ``make reliability`` sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reliability_parts import FEWEST_FILES
from tests.reliability.malformed import FAMILIES, Malformed, files, post_files
from tests.server.live import live_server, wait_ready


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return dict(files(tmp_path_factory.mktemp("files")))


def test_there_are_as_many_as_are_promised_and_no_two_are_alike(contents: dict[str, bytes]) -> None:
    assert len(contents) == len(set(contents.values())) >= FEWEST_FILES
    assert {name.partition("/")[0] for name in contents} > set(FAMILIES)


@pytest.mark.timeout(300)
def test_a_server_answers_some_of_each_family_and_is_well_afterwards(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    families: dict[str, list[str]] = {}
    for name in contents:
        families.setdefault(name.partition("/")[0], []).append(name)
    chosen = [names[len(names) // 2] for names in families.values()]
    with live_server(tmp_path / "data") as server:
        wait_ready(server)
        found = post_files(server, ((name, contents[name]) for name in chosen))
        assert "Traceback" not in server.log()
    assert (found.files, found.bad) == (len(chosen), [])
    assert sum(count for status, count in found.statuses.items() if status[0] == "4") >= 4


def test_an_answer_of_500_and_no_answer_are_not_good() -> None:
    found = Malformed()
    for name, status, is_good in (("a", "415", True), ("b", "500", False)):
        found.note(name, status, is_good)
    assert (found.statuses, found.bad) == ({"415": 1, "500": 1}, ["b: 500"])
