"""The plan cache under many processes, kills, corruption and foreign directories."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from engine.cache import PlanCache, default_cache_directory
from engine.errors import PlanError
from engine.plan import Plan, PlanKey, PlanRecord, read_plan, record_path, sha256_hex

ROOT = Path(__file__).parents[2]
KEY = PlanKey("0" * 64, "tensorrt_rtx", "1.7.1.116", "13", "7.5")


def plan_of(key: PlanKey, data: bytes = b"a plan") -> Plan:
    return Plan(PlanRecord(key, sha256_hex(data), len(data), model="fast"), data)


class Builder:
    """Counts how often it was asked."""

    def __init__(self, key: PlanKey = KEY, data: bytes = b"a plan") -> None:
        self.plan, self.calls = plan_of(key, data), 0

    def __call__(self) -> Plan:
        self.calls += 1
        return self.plan


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, messages: list[str]) -> PlanCache:
    return PlanCache.open(tmp_path / "plans", messages.append)


def test_a_plan_is_built_once_and_then_found(cache: PlanCache) -> None:
    builder = Builder()
    assert cache.get_or_build(KEY, builder) == cache.get_or_build(KEY, builder)
    assert builder.calls == 1


def test_a_retrained_model_gets_a_plan_of_its_own(cache: PlanCache) -> None:
    retrained = replace(KEY, onnx_sha256="1" * 64)
    cache.get_or_build(KEY, Builder())
    assert cache.get_or_build(retrained, Builder(retrained, b"new")).data == b"new"
    assert cache.get_or_build(KEY, Builder(data=b"never")).data == b"a plan"


def test_a_plan_for_another_key_is_a_mistake_of_the_caller(cache: PlanCache) -> None:
    with pytest.raises(ValueError, match="not the one that was asked for"):
        cache.get_or_build(KEY, Builder(replace(KEY, precision="fp32")))


@pytest.mark.parametrize("damage", ["flip", "truncate", "foreign", "no plan", "bad json"])
def test_a_bad_plan_is_set_aside_reported_and_rebuilt_once(
    cache: PlanCache, messages: list[str], damage: str
) -> None:
    cache.get_or_build(KEY, Builder())
    path = cache.path_of(KEY)
    if damage == "flip":
        path.write_bytes(b"b plan")
    elif damage == "truncate":
        path.write_bytes(b"a pl")
    elif damage == "foreign":
        other = plan_of(replace(KEY, compute_capability="8.9"))
        record_path(path).write_text(other.record.to_json())
    elif damage == "no plan":
        path.unlink()
    else:
        record_path(path).write_text("{")
    builder = Builder()
    assert cache.get_or_build(KEY, builder).data == b"a plan"
    assert cache.get_or_build(KEY, builder).data == b"a plan"
    assert builder.calls == 1
    assert len(messages) == 1
    assert "set aside" in messages[0]
    assert list(cache.directory.glob("*.bad"))


def test_each_of_200_flipped_bytes_and_every_truncation_is_caught_and_rebuilt_once(
    cache: PlanCache, messages: list[str]
) -> None:
    good = bytes(range(200))
    cache.get_or_build(KEY, Builder(data=good))
    flips = [good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :] for at in range(200)]
    damaged = [*flips, *(good[:length] for length in (0, 1, 100, 199))]
    for number, data in enumerate(damaged, start=1):
        cache.path_of(KEY).write_bytes(data)
        builder = Builder(data=good)
        assert cache.get_or_build(KEY, builder).data == good
        assert (builder.calls, len(messages)) == (1, number)


def test_a_plan_that_does_not_deserialise_is_rebuilt_once_and_then_raised(
    cache: PlanCache, messages: list[str]
) -> None:
    cache.get_or_build(KEY, Builder())
    builder = Builder()

    def refuse(plan: Plan) -> None:
        raise PlanError("the runtime refused it")

    with pytest.raises(PlanError, match="the runtime refused it"):
        cache.get_or_build(KEY, builder, refuse)
    assert builder.calls == 1
    assert len(messages) == 1
    assert not cache.path_of(KEY).exists()


def test_a_failed_build_leaves_nothing_and_frees_the_lock(cache: PlanCache) -> None:
    def fail() -> Plan:
        raise PlanError("out of memory")

    with pytest.raises(PlanError, match="out of memory"):
        cache.get_or_build(KEY, fail)
    assert cache.entries() == []
    assert cache.get_or_build(KEY, Builder()).data == b"a plan"


def test_the_gates_verdict_is_kept_with_the_plan(cache: PlanCache) -> None:
    plan = cache.get_or_build(KEY, Builder())
    cache.mark_verified(plan, "Tesla T4, driver 580.1")
    kept = cache.get_or_build(KEY, Builder())
    assert (kept.record.verified, kept.record.verified_on) == (True, "Tesla T4, driver 580.1")


def test_a_rejected_plan_is_built_anew(cache: PlanCache) -> None:
    cache.reject(cache.get_or_build(KEY, Builder()), "PSNR 12 dB")
    builder = Builder()
    cache.get_or_build(KEY, builder)
    assert builder.calls == 1


def test_prune_deletes_old_plans_rubbish_and_nothing_that_is_being_built(
    cache: PlanCache,
) -> None:
    keys = [replace(KEY, gpu_name=name) for name in ("old", "new", "busy")]
    for key in keys:
        cache.get_or_build(key, Builder(key))
    for key in (keys[0], keys[2]):
        for path in cache.directory.glob(f"{key.digest}.plan*"):
            os.utime(path, (1, 1))
    rubbish = cache.directory / f"{keys[1].digest}.plan.123.tmp"
    rubbish.write_bytes(b"half")
    with FileLock(cache.directory / f"{keys[2].digest}.lock"):
        files, freed = cache.prune(older_than_seconds=3600)
    assert files == 3
    assert freed > 0
    assert not rubbish.exists()
    assert {entry.path.stem for entry in cache.entries()} == {keys[1].digest, keys[2].digest}
    assert cache.prune()[0] == 4


def test_entries_tell_what_is_wrong_with_a_plan(cache: PlanCache) -> None:
    cache.get_or_build(KEY, Builder())
    cache.path_of(KEY).write_bytes(b"a plot")
    (entry,) = cache.entries()
    assert entry.record is None
    assert "not those its JSON names" in entry.problem


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PlanError, match="mode 0777"):
        PlanCache.open(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(PlanError, match="belongs to user 65534"):
        PlanCache.open(tmp_path)


def test_a_full_disk_is_one_sentence() -> None:
    cache = PlanCache(Path("/dev/full"), lambda message: None)
    with pytest.raises(PlanError, match="cannot be locked"):
        cache.get_or_build(KEY, Builder())


def test_the_cache_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("SR_CACHE_DIR", raising=False)
    assert default_cache_directory() == Path("/x/sr-server")
    monkeypatch.setenv("SR_CACHE_DIR", "/y")
    assert default_cache_directory() == Path("/y")


BUILDS = """
import sys
from pathlib import Path
from engine.cache import PlanCache
from engine.plan import Plan, PlanKey, PlanRecord, sha256_hex
KEY = PlanKey("0" * 64, "tensorrt_rtx", "1.7.1.116", "13", "7.5")
def build():
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    data = b"x" * 3_000_000
    return Plan(PlanRecord(KEY, sha256_hex(data), len(data)), data)
sys.stdin.readline()
print(PlanCache.open(Path(sys.argv[1]), print).get_or_build(KEY, build).record.sha256)
"""


def test_eight_processes_build_one_plan(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", BUILDS, str(tmp_path / "plans"), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    children = [subprocess.Popen(command, **pipes) for _ in range(8)]  # type: ignore[call-overload]
    answers = [child.communicate("go\n", timeout=60)[0] for child in children]
    assert len(set(answers)) == 1
    assert len(answers[0].strip()) == 64
    assert log.read_text() == "built\n"


READ_ONLY = """
import os, sys
from pathlib import Path
from engine.cache import PlanCache
from engine.plan import Plan, PlanKey, PlanRecord, sha256_hex
key = PlanKey("0" * 64, "tensorrt_rtx", "1.7.1.116", "13", "7.5")
new = PlanKey("1" * 64, "tensorrt_rtx", "1.7.1.116", "13", "7.5")
def build():
    return Plan(PlanRecord(new, sha256_hex(b"new"), 3), b"new")
def never():
    raise SystemExit("the stored plan was not found")
if os.geteuid() == 0:  # root ignores permission bits
    os.setuid(65534)
cache = PlanCache.open(Path(sys.argv[1]), print)
print(cache.get_or_build(key, never).data, cache.get_or_build(new, build).data)
print(cache.path_of(new).exists(), cache.directory)
"""


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that any user may enter (pytest's own may only be entered by its user)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_cache_is_read_and_new_plans_go_elsewhere(shared_directory: Path) -> None:
    frozen, spare = shared_directory / "frozen", shared_directory / "spare"
    PlanCache.open(frozen).get_or_build(KEY, Builder())
    frozen.chmod(0o555)
    spare.mkdir()
    spare.chmod(0o1777)
    result = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(frozen)],
        env={**os.environ, "TMPDIR": str(spare)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    frozen.chmod(0o755)
    assert result.returncode == 0, result.stderr
    said, plans, where = result.stdout.splitlines()
    assert "cannot be written" in said
    assert plans == "b'a plan' b'new'"
    assert where.startswith(f"True {spare}")


KILLS = """
import os, random, signal, sys
from pathlib import Path
from engine.cache import PlanCache
from engine.plan import Plan, PlanKey, PlanRecord, sha256_hex
directory, kills = Path(sys.argv[1]), 0
chance = random.Random(4)
def key_of(number):
    return PlanKey("0" * 64, "tensorrt_rtx", "1.7.1.116", "13", "7.5", multiprocessors=number)
def data_of(number):
    return random.Random(number).randbytes(400_000)
def build(number):
    data = data_of(number)
    return Plan(PlanRecord(key_of(number), sha256_hex(data), len(data)), data)
def build_all():
    cache = PlanCache.open(directory, lambda message: None)
    for number in range(40):
        cache.get_or_build(key_of(number), lambda: build(number))
while kills < 50:
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.02) + 0.002 * (kills % 7))
        build_all()
        os._exit(0)
    chance.random()  # the child drew from its own copy
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
    else:  # everything was built before the alarm: start over with fewer plans
        for path in directory.glob("*.plan*"):
            path.unlink()
    for entry in PlanCache.open(directory, lambda message: None).entries():
        number = entry.record.key.multiprocessors if entry.record else -1
        if number >= 0 and entry.path.read_bytes() != data_of(number):
            sys.exit("a killed build left a plan that loads wrongly")
build_all()
print(kills, len(PlanCache.open(directory).entries()))
"""


def test_fifty_kills_at_random_moments_never_leave_a_wrong_plan(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "plans")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout.split() == ["50", "40"]


REAL_KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from engine.backends.base import LaneSpec
from engine.build import CachedPlans, PlanMaker, Target, runtime_named
from engine.cache import PlanCache
from engine.models import load_model
directory, chance = Path(sys.argv[1]), random.Random(4)
maker = PlanMaker(runtime_named("tensorrt_rtx"), load_model("fast", allow_untrained=True),
                  Target("8.6"))
specs = [LaneSpec(32, 32 + 2 * number) for number in range(2)]
for spec in specs:
    maker.graph(spec)
def build_all(folder):
    plans = CachedPlans(maker, PlanCache.open(folder, lambda message: None))
    return [plans.plan_for(spec, lambda plan: None).record.sha256 for spec in specs]
def in_child(folder, seconds):
    child = os.fork()  # this process never builds, so that it never has a thread to lose
    if child == 0:
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        build_all(folder)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
began = time.monotonic()
assert not in_child(directory / "whole", 0)
whole = time.monotonic() - began
good = {e.record.key.digest: e.record.sha256 for e in PlanCache.open(directory / "whole").entries()}
assert len(good) == 2
kills, killed = 0, directory / "killed"
while kills < 50:
    is_anew, began = not list(killed.glob("*.plan.json")), time.monotonic()
    if in_child(killed, chance.uniform(0.002, 0.8 * whole)):
        kills += 1
    elif is_anew:  # the machine was busy when the whole was timed: or hardly any would be killed
        whole = min(whole, time.monotonic() - began)
    for entry in PlanCache.open(killed, lambda message: None).entries():
        if entry.record and entry.record.sha256 != good[entry.record.key.digest]:
            sys.exit("a killed build left a plan that is not the one that a whole build makes")
    if len(list(killed.glob("*.plan.json"))) == 2:
        for path in killed.glob("*.plan*"):
            path.unlink()
assert not in_child(killed, 0)
print(kills, sum(e.record is not None for e in PlanCache.open(killed).entries()))
"""


def test_fifty_kills_of_real_builds_never_leave_a_plan_that_is_another(tmp_path: Path) -> None:
    """With TensorRT for RTX and without a GPU; builds are byte for byte the same."""
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")
    result = subprocess.run(
        [sys.executable, "-c", REAL_KILLS, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout.split() == ["50", "2"]


def test_a_stored_plan_is_the_same_file_that_read_plan_reads(cache: PlanCache) -> None:
    plan = cache.get_or_build(KEY, Builder())
    assert read_plan(cache.path_of(KEY)) == plan
