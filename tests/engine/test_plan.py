"""A plan's name follows from its key, and its bytes from its record."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cache import write_plan
from engine.errors import PlanError
from engine.plan import Plan, PlanKey, PlanRecord, Profile, read_plan, record_path, sha256_hex

KEY = PlanKey(
    onnx_sha256="0" * 64,
    backend="tensorrt_rtx",
    backend_version="1.7.1.116",
    cuda_version="13",
    compute_capability="7.5",
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SIZES = st.tuples(st.integers(1, 64), st.integers(1, 64))
PROFILES = st.builds(lambda size: Profile.static(*size), SIZES)
BY_TYPE = {
    "str": TEXTS,
    "int": st.integers(0, 9),
    "bool": st.booleans(),
    "Profile": PROFILES,
    "tuple[str, ...]": st.lists(TEXTS, max_size=2).map(tuple),
}
KEYS = st.builds(PlanKey, **{f.name: BY_TYPE[str(f.type)] for f in fields(PlanKey)})


@given(KEYS, KEYS)
def test_digests_differ_exactly_when_keys_differ(one: PlanKey, other: PlanKey) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(KEYS, st.data())
def test_changing_any_single_field_changes_the_digest(key: PlanKey, data: st.DataObject) -> None:
    for field in fields(PlanKey):
        value = data.draw(BY_TYPE[str(field.type)], label=field.name)
        changed = replace(key, **{field.name: value})
        assert (changed.digest == key.digest) == (value == getattr(key, field.name))


@given(KEYS)
def test_a_key_survives_its_json(key: PlanKey) -> None:
    assert PlanKey.from_dict(json.loads(key.to_json())) == key


def test_the_digest_is_the_same_on_every_machine_and_run() -> None:
    assert KEY.digest == sha256_hex(KEY.to_json().encode())
    assert KEY.to_json().startswith('{"backend":"tensorrt_rtx","backend_version":"1.7.1.116",')


def test_a_profile_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="minimum <= optimum"):
        Profile((8, 8), (4, 8), (16, 16))


def test_a_profile_admits_only_what_lies_between_its_ends() -> None:
    profile = Profile((64, 64), (1024, 1024), (1080, 1920))
    assert profile.admits(1080, 1920)
    assert not profile.admits(1920, 1080)
    assert not profile.admits(63, 64)


def written(directory: Path, data: bytes = b"plan bytes" * 20) -> Path:
    path = directory / "fast.plan"
    record = PlanRecord(KEY, sha256_hex(data), len(data), model="fast")
    write_plan(path, Plan(record, data))
    return path


def test_a_written_plan_reads_back(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path))
    assert plan.data == b"plan bytes" * 20
    assert plan.record.key == KEY
    assert not plan.record.verified
    assert plan.record.as_verified("Tesla T4").verified_on == "Tesla T4"


def test_every_flipped_byte_of_a_plan_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    good = path.read_bytes()
    assert len(good) == 200
    for index in range(200):
        path.write_bytes(good[:index] + bytes([good[index] ^ 0x10]) + good[index + 1 :])
        with pytest.raises(PlanError, match="not those its JSON names"):
            read_plan(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    good = path.read_bytes()
    for length in (0, 1, 100, 199):
        path.write_bytes(good[:length])
        with pytest.raises(PlanError, match="not those its JSON names"):
            read_plan(path)


def test_a_plan_without_its_json_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    record_path(path).unlink()
    with pytest.raises(PlanError, match=r"fast\.plan\.json is missing"):
        read_plan(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw | {"schema": 99},
        lambda raw: raw | {"digest": "f" * 64},
        lambda raw: raw | {"key": {**raw["key"], "onnx_sha256": "f" * 64}},
        lambda raw: raw | {"key": None},
        lambda raw: {name: raw[name] for name in raw if name != "sha256"},
        lambda raw: [],
    ],
)
def test_a_json_that_is_not_the_plans_own_is_refused(tmp_path: Path, edit: object) -> None:
    path = written(tmp_path)
    beside = record_path(path)
    beside.write_text(json.dumps(edit(json.loads(beside.read_text()))))  # type: ignore[operator]
    with pytest.raises(PlanError):
        read_plan(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_json_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path)
    record_path(path).write_bytes(content)
    with pytest.raises(PlanError):
        read_plan(path)
