"""The farm keeps the truth: every segment once, whatever becomes of its makers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.nearest import NearestBackend
from server.cluster import farm as farm_module
from server.cluster.connection import ClusterError, connected, import_ray
from server.cluster.farm import Farm
from server.cluster.maker import EngineChoice, Failed, Made, SegmentMaker
from server.media.child import error_message
from server.media.errors import EncodeError, UnusableMedia
from server.media.ledger import Header, Row
from server.segment_plan import Work, prepare, source_mark
from server.video_options import VideoOptions
from tests.cluster.fake_ray import FakeRay, RayError, RayTaskError
from tests.server.media.clips import Clip, write_clip

INFO = NearestBackend().info
HEADER = Header("", "1/25", 0, cuts=[10, 20, 30, 40])


class Imagined:
    """A maker without an engine."""

    def __init__(self, info: Any = INFO, fails: Failed | None = None) -> None:
        self.info, self.fails = info, fails

    def open(self) -> Any:
        return self.info

    def has(self, _: Path, __: str) -> bool:
        return True

    def make(self, _: Work, __: Header, number: int) -> Made | Failed:
        return self.fails or Made(Row(f"{number}", "", [number], [1], [0]), b"", {})


@pytest.fixture(autouse=True)
def _hires_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm_module, "_HIRE_SECONDS", 0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"video")
    return path


def made_by(ray: FakeRay, source: Path, numbers: range = range(5)) -> list[str]:
    """Names of the segments, in the order in which they came."""
    farm = Farm(ray, EngineChoice("nearest"), source, lambda: None)
    assert farm.wait_backend() == INFO
    names: list[str] = []
    work = Work(source, source.parent, VideoOptions(), "mp4")
    farm.make(work, HEADER, numbers, lambda made: names.append(made.row.file))
    farm.close()
    assert not any(actor.alive for actor in ray.hired)
    return names


@given(st.lists(st.one_of(st.none(), st.integers(1, 4)), max_size=4))
@settings(max_examples=50)
def test_every_segment_comes_once_while_some_maker_lives(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int | None]
) -> None:
    farm_module._HIRE_SECONDS = 0.0
    path = tmp_path_factory.mktemp("farm") / "source"
    path.write_bytes(b"video")
    # No segment meets three deaths: a maker that dies at its first call is followed by others.
    tries = [2 if death == 1 else death for death in deaths]
    names = made_by(FakeRay(lambda _: Imagined(), tries), path)
    assert sorted(names) == ["0", "1", "2", "3", "4"]


def test_a_segment_that_kills_three_makers_has_failed(source: Path) -> None:
    with pytest.raises(ClusterError, match="Segment 0 failed 3 times"):
        made_by(FakeRay(lambda _: Imagined(), [1, 1, 1, 1, 1]), source, range(1))


def test_a_failure_of_the_file_ends_it_and_one_of_the_node_is_tried_elsewhere(
    source: Path,
) -> None:
    damaged = Failed(error_message(UnusableMedia("It is damaged.", code="corrupt")), final=True)
    with pytest.raises(UnusableMedia, match="damaged"):
        made_by(FakeRay(lambda _: Imagined(fails=damaged)), source)
    full = Failed(error_message(EncodeError("A disk is full.")), final=False)
    makers = iter([Imagined(fails=full), *(Imagined() for _ in range(9))])
    assert len(made_by(FakeRay(lambda _: next(makers)), source)) == 5


def test_nodes_with_another_network_and_nodes_without_an_engine_are_refused(source: Path) -> None:
    other = replace(INFO, model="other")
    makers = iter([Imagined(), *(Imagined(other) for _ in range(9))])
    with pytest.raises(ClusterError, match="name one backend"):
        made_by(FakeRay(lambda _: next(makers)), source)
    with pytest.raises(ClusterError, match="no GPU here"):
        made_by(FakeRay(lambda _: Imagined("no GPU here")), source)


def test_a_maker_takes_a_gpu_where_there_are_some_and_threads_where_not(source: Path) -> None:
    choices: list[EngineChoice] = []

    def build(choice: EngineChoice) -> Imagined:
        choices.append(choice)
        return Imagined()

    for backend, resources in (("auto", {"CPU": 8.0, "GPU": 2.0}), ("onnxruntime", {"CPU": 8.0})):
        ray = FakeRay(build, resources=resources)
        farm = Farm(ray, EngineChoice(backend, threads=4), source, lambda: None)  # type: ignore[arg-type]
        farm.wait_backend()
        work = Work(source, source.parent, VideoOptions(), "mp4")
        farm.make(work, HEADER, range(5), lambda _: None)
        assert len(ray.hired) == 2
        assert {each["num_gpus"] for each in ray.options} == {1 if backend == "auto" else 0}
    assert {choice.threads for choice in choices} == {4}


def test_a_bug_on_a_node_is_one_sentence(source: Path) -> None:
    class Buggy(Imagined):
        def open(self) -> Any:
            error = RayTaskError()
            error.cause = TypeError("old version")
            raise error

    with pytest.raises(ClusterError, match="same version of sr-server"):
        made_by(FakeRay(lambda _: Buggy()), source)


def test_nodes_where_no_maker_ever_opens_are_given_up(source: Path) -> None:
    class Stillborn(Imagined):
        def open(self) -> Any:
            raise RayError("died\nModuleNotFoundError: No module named 'server'")

    ray = FakeRay(lambda _: Stillborn())
    with pytest.raises(ClusterError, match=r"No module named 'server'.*installed on every node"):
        made_by(ray, source)
    assert len(ray.hired) == farm_module.MOST_STILLBORN


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmentMaker]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = SegmentMaker(EngineChoice("nearest"))
    yield made
    made.close()


def test_a_maker_without_the_source_fetches_it_and_makes_the_same_segment(
    maker: SegmentMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = write_clip(tmp_path / "video", Clip(options={"g": "3"})), tmp_path / "made"
    folder.mkdir()
    work = Work(source, folder, VideoOptions(), "mp4", segment_seconds=0.1)
    ray = FakeRay(lambda _: Imagined())
    monkeypatch.setitem(sys.modules, "ray", ray)
    info = maker.open()
    assert not isinstance(info, str)
    header = prepare(work, info, lambda: None).header
    assert not maker.has(tmp_path / "elsewhere", "")
    assert not maker.has(source, "another")
    content = source.read_bytes()
    maker.fetch([ray.put(content[:1000]), ray.put(content[1000:])])
    fetched = maker.make(work, header, 1)
    assert maker.has(source, source_mark(source))
    assert isinstance(fetched, Made)
    assert len(fetched.row.pts) == 3
    seen = maker.make(work, header, 1)
    assert isinstance(seen, Made)
    # Matroska gives each of its files a number by chance.
    assert replace(seen.row, sha256="") == replace(fetched.row, sha256="")
    source.write_bytes(content[:300])
    assert isinstance(maker.make(work, header, 1), Failed)


def test_folders_of_killed_makers_are_removed_and_those_of_others_stay(
    maker: SegmentMaker, tmp_path: Path
) -> None:
    left = tmp_path / "sr-cluster-left"
    left.mkdir()
    (left / "lock").touch()
    mine = maker._folder
    SegmentMaker(EngineChoice("nearest")).close()
    assert not left.exists()
    assert mine.exists()


def test_a_cluster_that_is_not_there_and_ray_that_is_not_installed_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"sr-server\[cluster\]"):
        import_ray()

    closed: list[bool] = []

    class Nowhere:
        def is_initialized(self) -> bool:
            return False

        def init(self, **options: Any) -> None:
            raise ConnectionError("nobody answers\nat all")

        def shutdown(self) -> None:
            closed.append(True)

    monkeypatch.setitem(sys.modules, "ray", Nowhere())
    with pytest.raises(ClusterError, match=r"no Ray cluster at 'auto' \(nobody answers\)"):
        connected("auto").__enter__()
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127.0.0.1:1' \(.*refused"):
        connected("127.0.0.1:1").__enter__()
    assert closed
