"""A full disk is said and leaves nothing; a new name never appears before its bytes are safe."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.segments import upscale_in_segments
from server.session import upscale_video
from tests.reliability.figures import record
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

DISK_KIB = 900
MOUNT = f'mount -t tmpfs -o size={DISK_KIB}k none "$SR_DATA_DIR" && exec "$@"'


def small_disk() -> Sequence[str]:
    """A command that runs another with a small data directory of its own."""
    inside = ["unshare", "-rm", "sh", "-c", MOUNT, "sh"]
    environment = {**os.environ, "SR_DATA_DIR": "/mnt"}
    if subprocess.run([*inside, "true"], env=environment, capture_output=True).returncode == 0:
        return inside
    return ["prlimit", f"--fsize={DISK_KIB * 512}"]  # no file may grow: fails at the same places


def bytes_of(server: LiveServer, job_id: str) -> dict[str, int]:
    """The files of a job as its server sees them, without the input."""
    seen = Path(f"/proc/{server.process.pid}/root{server.data_dir}")
    folder = (seen if seen.exists() else server.data_dir) / "jobs" / job_id
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.stat().st_size for name, path in files.items() if name != "input"}


def ended(client: httpx.Client, job_id: str) -> dict[str, object]:
    states = ("done", "failed")
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["state"] in states, "the end")
    job: dict[str, object] = client.get(f"/jobs/{job_id}").json()
    return job


def test_a_full_disk_fails_the_job_with_507_frees_its_bytes_and_the_next_one_works(
    tmp_path: Path, data: Path
) -> None:
    clip = (data / "demo" / "city_256x256.mp4").read_bytes()
    settings = {"SR_SEGMENT_SECONDS": "0.1", "SR_DISK_QUOTA_BYTES": str(10**9)}
    with live_server(tmp_path, prefix=small_disk(), **settings) as server:
        wait_ready(server)
        with server.client() as client:
            large = client.post("/jobs?quality=1", content=clip)
            assert large.status_code == 202
            failed = ended(client, large.json()["id"])
            assert failed["state"] == "failed"
            assert failed["error"]["code"] == "disk_full"  # type: ignore[index]
            left = {
                name: size
                for name, size in bytes_of(server, large.json()["id"]).items()
                if name != "preview.jpg"
            }
            assert left == {}
            assert client.delete(f"/jobs/{large.json()['id']}").status_code in (200, 204)
            refused = client.post("/jobs", content=clip + bytes(2_000_000))
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
            small = write_clip(tmp_path / "small", Clip()).read_bytes()
            after = client.post("/jobs?height=48", content=small)
            assert after.status_code == 202
            assert ended(client, after.json()["id"])["state"] == "done"
            assert client.post("/upscale", content=png()).status_code == 200


SEGMENT_RENAMED = re.compile(r"/segment-\w+\.mkv\.part -> ")


class Recorder:
    """Every fsync and rename of this process, by the names of the files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, str]] = []
        fsync, replace = os.fsync, Path.replace

        def record_fsync(descriptor: int) -> None:
            name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            fsync(descriptor)
            self.steps.append(("fsync", name))

        def record_replace(path: Path, target: Path) -> Path:
            self.steps.append(("rename", f"{path} -> {target}"))
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(Path, "replace", record_replace)

    def check(self) -> int:
        """How many renames there were, each of synced bytes and followed by a synced folder."""
        renames = 0
        for index, (what, name) in enumerate(self.steps):
            if what != "rename":
                continue
            renames += 1
            source, target = name.split(" -> ")
            assert ("fsync", source) in self.steps[:index], name
            assert ("fsync", str(Path(target).parent)) in self.steps[index:], name
        return renames


def test_a_name_appears_only_after_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "source", Clip(frames=10))
    folder = tmp_path / "segments"
    folder.mkdir()
    recorder = Recorder(monkeypatch)
    with Upscaler(NearestBackend()) as upscaler:
        upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.1)
        upscale_video(source, tmp_path / "b.mp4", upscaler)
    renames = recorder.check()
    record("early names", f"0 of {renames}")
    assert renames >= 5  # segments, the ledger and two results
    names = [name for _, name in recorder.steps]
    first_segment = next(i for i, name in enumerate(names) if SEGMENT_RENAMED.search(name))
    entered = [i for i, name in enumerate(names) if name.endswith("/ledger.jsonl")]
    assert max(entered) > first_segment > min(entered)


def test_the_recorder_sees_a_name_that_comes_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    (tmp_path / "a.part").write_bytes(b"x")
    (tmp_path / "a.part").replace(tmp_path / "a")
    with pytest.raises(AssertionError):
        recorder.check()
