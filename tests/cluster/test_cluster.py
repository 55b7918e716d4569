"""The service and a video on a real Ray cluster of two nodes, one of which dies on the way."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.selection import open_backend
from engine.upscaler import Upscaler
from server.media.ledger import FILE_NAME
from server.segments import upscale_in_segments
from server.video_options import VideoOptions
from tests.cluster.nodes import Nodes, environment, ray_nodes
from tests.server.live import DEADLINE_SECONDS, lasting_port, pixels_of, png, wait_until
from tests.server.media.clips import Clip, read_clip, write_clip

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SEGMENTS = 6
FRAMES = SEGMENTS * 12
CLIP = Clip(
    width=64,
    height=48,
    frames=FRAMES,
    time_base=Fraction(1, 90000),
    pts=[90000 * n + (n * 7777) % 45000 for n in range(FRAMES)],
    options={"bf": "2", "g": "12", "sc_threshold": "0"},
    audio=("aac",),
)
"""About a frame a second, so that six segments of ten seconds are few frames."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: make cluster-check")
    with ray_nodes(tmp_path_factory.mktemp("nodes")) as running:
        yield running


@pytest.fixture
def served(nodes: Nodes, tmp_path: Path) -> Iterator[str]:
    """Address of both applications, deployed."""
    port = lasting_port()
    arguments = [nodes.address, str(port), str(tmp_path / "data")]
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.serve_both", *arguments],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            said = process.stdout.readline()
            assert said == "deployed\n", (tmp_path / "serve.log").read_text()
            yield f"http://127.0.0.1:{port}"
            process.stdin.close()
            process.wait(2 * DEADLINE_SECONDS)  # replicas may take a minute to stop
        finally:
            process.kill()


def test_ray_serve_answers_like_the_server_and_its_jobs_use_the_cluster(
    served: str, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "source", CLIP)
    with httpx.Client(base_url=served, timeout=60, trust_env=False) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        small = png(12, 9)
        large = client.post("/upscale", content=small)
        assert large.status_code == 200, large.text
        np.testing.assert_array_equal(pixels_of(large.content)[2::4, 2::4], pixels_of(small))
        assert client.get("/jobs/nobodys").json()["error"]["code"] == "not_found"
        job = client.post("/jobs", content=source.read_bytes()).json()
        assert "event: end" in client.get(f"/jobs/{job['id']}/events", timeout=120).text
        manifest = client.get(f"/jobs/{job['id']}").json()["manifest"]
        assert (manifest["frames_out"], manifest["backend"]["name"]) == (FRAMES, "nearest")
        target = tmp_path / "a.mp4"
        target.write_bytes(client.get(f"/jobs/{job['id']}/result").content)
    assert read_clip(target).seconds == read_clip(source).seconds


def command(nodes: Nodes, source: Path, target: Path) -> subprocess.Popen[str]:
    """``sr-upscale`` on the cluster; on a file system that the nodes do not share, they say."""
    arguments = [str(source), str(target), "--cluster", nodes.address]
    engine = ["--backend", "onnxruntime", "--model", "fast", "--threads", "1"]
    manifest = ["--manifest", str(target.with_suffix(".json"))]
    return subprocess.Popen(
        [sys.executable, "-m", "server.upscale_cli", *arguments, *engine, *manifest],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(folder: Path) -> int:
    """Segments that have arrived so far."""
    for ledger in folder.glob(f".*/{FILE_NAME}"):
        return ledger.read_text().count('{"row"')
    return 0


def lose_at_work(nodes: Nodes) -> None:
    """Kills the second node while it makes a segment, however slowly it came to that."""
    first, second = nodes.each
    others = first.makers()
    for maker in others:
        maker.suspend()  # else they may leave nothing for the second
    wait_until(second.stop_at_work, "the second node at work", 120)
    second.kill()
    for maker in others:
        maker.resume()


def test_a_cluster_makes_the_file_that_one_machine_makes_even_if_a_node_dies(
    nodes: Nodes, tmp_path: Path
) -> None:
    source, alone, target = (tmp_path / name for name in ("source", "alone.mp4", "a.mp4"))
    write_clip(source, CLIP)
    process = command(nodes, source, target)
    wait_until(lambda: rows(tmp_path) >= 1 or process.poll() is not None, "a segment", 120)
    assert process.poll() is None, process.communicate()[0]
    lose_at_work(nodes)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    manifest = json.loads(target.with_suffix(".json").read_text())
    assert manifest["frames_in"] == manifest["frames_out"] == manifest["frames_encoded"] == FRAMES
    assert "workers of the cluster were lost" in said
    folder = tmp_path / "segments"
    folder.mkdir()
    with Upscaler(open_backend("onnxruntime", "fast", threads=1)) as upscaler:
        upscale_in_segments(source, alone, folder, upscaler, VideoOptions())
    assert target.read_bytes() == alone.read_bytes()
    assert read_clip(target).seconds == read_clip(source).seconds
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
