"""``sr-engine build`` and ``sr-engine cache`` as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.backends.base import LaneSpec
from engine.backends.tensorrt_shim import BuildCancelled
from engine.build import PlanMaker, Target, runtime_named
from engine.build_cli import with_progress
from engine.cache import PlanCache
from engine.models import load_model, parse_model, stand_in
from engine.plan import Plan, read_plan
from tests.engine.fake_cuda import T4

SMALL = ["--size", "32x32"]


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")


@pytest.mark.usefixtures("rtx")
def test_one_value_makes_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fast.plan"
    assert main(["build", "--sm", "75", "--model", "fast", "--out", str(path), *SMALL]) == 0
    assert read_plan(path).record.key.compute_capability == "7.5"
    assert sorted(p.name for p in path.parent.iterdir()) == ["fast.plan", "fast.plan.json"]


@pytest.mark.usefixtures("rtx")
def test_several_values_make_a_plan_each(tmp_path: Path) -> None:
    assert main(["build", "--sm", "75,86,75", "--out", str(tmp_path / "plans"), *SMALL]) == 0
    made = sorted((tmp_path / "plans").glob("*.plan"))
    assert [path.name for path in made] == [
        "fast-rgb24-32x32-sm75.plan",
        "fast-rgb24-32x32-sm86.plan",
    ]
    assert [read_plan(path).record.key.compute_capability for path in made] == ["7.5", "8.6"]


@pytest.mark.usefixtures("rtx")
def test_without_out_plans_go_to_the_cache_which_lists_and_prunes_them(
    cache_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--sm", "75", "--max-size", "64x64", "--size", "64x64"]) == 0
    capsys.readouterr()
    assert main(["cache", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["record"]["key"]["profile"]["maximum"] == [64, 64]
    assert not entry["record"]["verified"]
    (plan,) = cache_directory.glob("*.plan")
    plan.write_bytes(b"x")
    assert main(["cache", "list"]) == 0
    assert main(["cache", "prune", "--days", "0"]) == 0
    assert "deleted 2 files" in capsys.readouterr().out
    assert list(cache_directory.glob("*.plan*")) == []


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sm", "90"], "--sm '90' is not one of 75, 80, 86, 89, 120"),
        (["--sm", "75,80", "--out", "x.plan"], "2 plans need a folder"),
        (["--sm", "75", "--model", "nope"], "'nope' is not a model"),
        (["--sm", "75", "--size", "0x4"], "size must look like"),
        (["--sm", "75", "--size", "100000x100000"], "too large for one plan"),
        (["--sm", "75", "--size", "16384x16384"], "too large for one plan"),
        (["--sm", "75", "--size", "9" * 5000 + "x1"], "too large for one plan"),
        (["--sm", "75", "--size", "64x64", "--max-size", "64x16385"], "too large for one plan"),
        (["--sm", "75", "--size", "99x99", "--max-size", "65x65"], "must be at least --size"),
        (["--backend", "tensorrt", "--sm", "75"], "tensorrt"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in lines[-1]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.usefixtures("rtx")
def test_an_untrained_width_is_built_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "odd.safetensors"
    weights.write_bytes(stand_in("balanced"))
    assert not parse_model(weights.read_bytes(), "odd").trained
    out = tmp_path / "odd.plan"
    assert main(["build", "--sm", "75", "--model", str(weights), "--out", str(out), *SMALL]) == 0
    assert "untrained" in capsys.readouterr().err
    assert not read_plan(out).record.trained


def test_a_foreign_cache_is_refused(
    cache_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_directory.mkdir()
    cache_directory.chmod(0o777)
    assert main(["cache", "list"]) == 2
    assert "mode 0777" in capsys.readouterr().err


def test_an_interrupt_cancels_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    real, interrupts = Future.result, [KeyboardInterrupt()]

    def interrupted(self: Future[Plan], timeout: float | None = None) -> Plan:
        if interrupts:
            raise interrupts.pop()
        return real(self, timeout)

    def build_until_cancelled(on_progress: object) -> Plan:
        while on_progress(0.5, "searching"):  # type: ignore[operator]
            pass
        raise BuildCancelled("the build was cancelled")

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(BuildCancelled):
        with_progress("fast", build_until_cancelled)


@pytest.mark.usefixtures("rtx")
def test_a_plan_built_ahead_is_the_one_that_a_t4_looks_for(cache_directory: Path) -> None:
    assert main(["build", "--sm", "75", "--model", "fast", *SMALL]) == 0
    runtime = runtime_named("tensorrt_rtx")
    on_a_t4 = PlanMaker(runtime, load_model("fast", allow_untrained=True), Target.of(runtime, T4))
    (entry,) = PlanCache.open(cache_directory).entries()
    assert entry.record is not None
    assert entry.record.key == on_a_t4.key(LaneSpec(32, 32))
