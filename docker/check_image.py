"""Runs an image that docker/check.sh built: what is in it, what it answers, how it ends.

    check_image.py TAG MOST_MB [--runtime cpu|rtx] [--weights FILE] [--deployed]

Its last line sums up what was seen. Standard library only; podman's state is where the build
script keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PICTURE = Path("tests/data/pictures/skyline.png")
CLIP = Path("tests/data/demo/city_256x256.mp4")
READY_SECONDS = 300.0
BASE = "python:3.12-slim-bookworm"
OFFICIAL_BASE_MB = 130.0
"""Of Docker's own BASE, rounded up. The one made locally has other contents and 312 MB."""
LIMITS = (
    *("--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=1g"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--pids-limit", "512"),
)
"""As docs/operations.md says to run it: only the volumes and /tmp can be written to."""

INSIDE = """
import importlib.util, os, shutil, sys
unwanted = [n for n in ("torch", "trainer", "pip", "pytest") if importlib.util.find_spec(n)]
unwanted += [n for n in ("cc", "gcc", "g++", "nvcc") if shutil.which(n)]
assert not unwanted, f"not wanted in the image: {unwanted}"
kernels = os.path.dirname(importlib.util.find_spec("engine.kernels").origin)
assert os.path.exists(f"{kernels}/winograd.so"), "the C kernel was not compiled"
assert (os.getuid(), os.getgid()) == (10001, 10001), "it does not run as 10001:10001"
for folder in ("/", "/opt/sr", "/models", "/etc"):
    try:
        open(f"{folder}/probe", "w")
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written to")
for folder in ("/cache", "/data", "/tmp"):
    open(f"{folder}/probe", "w").close()
"""

CPU_BACKEND = "winograd"
"""What ``auto`` takes without a GPU: the C kernel that was compiled into the image."""

RTX_PLAN = ("build", "--backend", "tensorrt_rtx", "--sm", "75", "--model", "fast")
"""Arguments of sr-engine: the plan of a T4, built without a GPU."""


class Failed(Exception):
    """What the image does not do; the message is one sentence."""


def say(text: str) -> None:
    """One line on stdout."""
    print(f"docker-check: {text}", flush=True)


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``podman run`` with LIMITS; limits of the system are kept, as raising them takes a right."""
    kept = []
    names = (("nofile", resource.RLIMIT_NOFILE, 2**20), ("nproc", resource.RLIMIT_NPROC, 2**15))
    for name, which, most in names:
        hard = resource.getrlimit(which)[1]
        value = most if hard == resource.RLIM_INFINITY else min(hard, most)
        kept += ["--ulimit", f"{name}={value}:{value}"]
    return podman("run", *LIMITS, *kept, *arguments, check=check)


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs podman on the build script's storage; stdout and stderr come back together."""
    state = Path(os.environ["DOCKER_BUILD_CHECK_DIR"])
    driver = "overlay"
    if (state / "vfs" / "storage").is_dir():  # where it goes when overlay is not possible
        driver, state = "vfs", state / "vfs"
    command = ["podman", "--root", str(state / "storage"), "--runroot", str(state / "run")]
    command += ["--tmpdir", str(state / "run" / "libpod"), "--storage-driver", driver]
    command += ["--log-level", "error", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    done = subprocess.run(
        [*command, "--events-backend", "file", *arguments],
        env={**os.environ, "DISABLE_HC_SYSTEMD": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if check and done.returncode:
        raise Failed(f"podman {arguments[0]} failed: {done.stdout.strip()}")
    return done


def size_mb(image: str) -> float:
    """All layers of an image, uncompressed."""
    return int(podman("image", "inspect", image, "--format", "{{.Size}}").stdout) / 1e6


def check_contents(tag: str, most_mb: int) -> str:
    """Size, user, volumes, and that neither compilers nor torch nor pip are inside."""
    ours_mb = size_mb(tag) - size_mb(BASE)
    whole_mb = ours_mb + OFFICIAL_BASE_MB
    say(f"{tag} adds {ours_mb:.0f} MB to its base: {whole_mb:.0f} MB, at most {most_mb} are wanted")
    if whole_mb > most_mb:
        raise Failed(f"{tag} is {whole_mb - most_mb:.0f} MB too large")
    volumes = podman("image", "inspect", tag, "--format", "{{json .Config.Volumes}}").stdout
    if set(json.loads(volumes)) != {"/cache", "/data"}:
        raise Failed(f"the volumes are {volumes.strip()}, not /cache and /data")
    run("--rm", "--entrypoint", "python", tag, "-c", INSIDE)
    say("runs as 10001:10001; only /cache, /data and /tmp can be written to; no tools inside")
    return f"{ours_mb:.0f} MB + base of {OFFICIAL_BASE_MB:.0f} MB (at most {most_mb})"


def check_rtx(tag: str) -> str:
    """TensorRT for RTX builds a plan in the image, and PyCUDA lacks nothing but the driver."""
    done = run("--rm", "--entrypoint", "sr-engine", tag, *RTX_PLAN, "--out", "/tmp/fast.plan")
    size = re.search(r"\bsm75\W+([\d.]+)", done.stdout)
    if size is None:
        raise Failed(f"sr-engine build says: {done.stdout.strip()}")
    say(f"builds the plan of a T4: {size[1]} MB")
    asked = run("--rm", "-e", "SR_BACKEND=tensorrt_rtx", "-e", "SR_CALIBRATE=off", tag, check=False)
    if asked.returncode != 3 or "PyCUDA finds no NVIDIA driver (libcuda.so.1" not in asked.stdout:
        raise Failed(f"PyCUDA should lack the driver only, but: {asked.stdout.strip()}")
    say("PyCUDA lacks nothing but the driver's libcuda.so.1, which comes with --gpus all")
    return "T4 plan built, PyCUDA in place"


def check_refusals(tag: str) -> None:
    """What cannot work ends at once with exit code 2 and one sentence."""
    cases = {
        "a bad value": ["-e", "SR_WORKERS=many", tag],
        "an unknown model": ["-e", "SR_MODEL=nothing", tag],
        "a volume that cannot be written": ["--tmpfs", "/data:ro,size=1m", tag],
        "an engine that is not inside": ["-e", "SR_BACKEND=tensorrt", tag],
        "a plan cache that cannot be written": ["--tmpfs", "/cache:ro,size=1m", tag],
    }
    for what, arguments in cases.items():
        done = run("--rm", "-e", "SR_CALIBRATE=off", *arguments, check=False)
        said = [line for line in done.stdout.splitlines() if line.startswith("sr-server: ")]
        if done.returncode not in (2, 3) or len(said) != 1 or "Traceback" in done.stdout:
            raise Failed(f"{what} ended with {done.returncode}: {done.stdout.strip()}")
        say(f"{what} ends with {done.returncode}: {said[0]}")


@contextmanager
def running(tag: str, weights: Path | None) -> Iterator[tuple[str, str]]:
    """A container and its URL. Ends it, and wants exit code 0."""
    model: list[str] = []
    if weights is not None:
        inside = f"/models/{weights.name}"
        model = ["-v", f"{weights.resolve()}:{inside}:ro", "-e", f"SR_MODEL={inside}"]
    settings = ["-e", "SR_CALIBRATE=off", "-e", "SR_DISK_KEEP_BYTES=0"]
    published = ["-p", "127.0.0.1::8000", "--log-driver", "k8s-file"]
    started = run("-d", *published, *settings, *model, tag)
    container = started.stdout.strip().splitlines()[-1]
    try:
        yield container, "http://" + podman("port", container, "8000").stdout.strip()
        podman("stop", "-t", "60", container)
        code = podman("inspect", container, "--format", "{{.State.ExitCode}}").stdout.strip()
        if code != "0":
            raise Failed(f"exit code {code} after SIGTERM")
        say("ends with 0 on SIGTERM")
    except BaseException:
        print(podman("logs", container, check=False).stdout, file=sys.stderr)
        raise
    finally:
        podman("rm", "-f", "-v", "-t", "5", container, check=False)


def wait_until_ready(container: str, url: str) -> str:
    """Polls /readyz until it answers 200; returns what is ready."""
    began = time.monotonic()
    while time.monotonic() - began < READY_SECONDS:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                ready = json.load(answer)
        except OSError:  # not listening yet, or 503
            state = podman("inspect", container, "--format", "{{.State.Running}}").stdout
            if state.strip() != "true":
                raise Failed("the container ended by itself") from None
            time.sleep(0.5)
            continue
        what = f"{ready['backend']} with {ready['model']}"
        say(f"ready after {time.monotonic() - began:.1f} s: {what} on {ready['device']}")
        return what
    raise Failed(f"not ready within {READY_SECONDS:.0f} s")


def post(url: str, body: Path, key: str) -> tuple[bytes, dict[str, str]]:
    """What ``POST url`` answers: body and headers."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, body.read_bytes(), headers)
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=300) as answer:
        content = answer.read()
        found = {name.lower(): text for name, text in answer.headers.items()}
    say(
        f"{body.name} took {time.monotonic() - began:.1f} s on {found['x-sr-backend']} "
        f"with {found['x-sr-model']}"
    )
    return content, found


def png_size(content: bytes) -> tuple[int, int]:
    """(width, height) of a PNG."""
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def check_answers(url: str, key: str) -> None:
    """Closed without the key; a picture and a clip come back four times as large, and whole."""
    try:
        urllib.request.urlopen(f"{url}/jobs", timeout=30)
    except urllib.error.HTTPError as refusal:
        if refusal.code != 401:
            raise Failed(f"/jobs without a key answers {refusal.code}, not 401") from None
    else:
        raise Failed("/jobs is open without a key")
    width, height = png_size(PICTURE.read_bytes())
    large, _ = post(f"{url}/upscale", PICTURE, key)
    if png_size(large) != (4 * width, 4 * height):
        raise Failed(f"the picture is {png_size(large)}, not 4 x {(width, height)}")
    video, headers = post(f"{url}/upscale", CLIP, key)
    if video[4:8] != b"ftyp" or b"moof" not in video:
        raise Failed("the video is not a fragmented MP4")
    job = fetch(f"{url}/jobs/{headers['x-sr-job']}", key)
    if (job["state"], job["frames"]) != ("done", 41):
        raise Failed(f"the video's manifest says {job['state']} after {job['frames']} frames")


def fetch(url: str, key: str) -> dict[str, object]:
    """JSON of a route that needs the key."""
    request = urllib.request.Request(url, headers={"X-API-Key": key})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: dict[str, object] = json.load(answer)
    return content


def check_chain(tag: str, url: str, key: str) -> str:
    """What runs is what was baked in: data set, checkpoint, weights and ONNX have its hashes."""
    inside = run("--rm", "--entrypoint", "cat", tag, "/models/chain.json").stdout
    baked = json.loads(inside[inside.index("{") :])
    chain = fetch(f"{url}/model", key)["chain"]
    assert isinstance(chain, dict)
    for name in ("dataset_sha256", "checkpoint_sha256", "weights_sha256"):
        if not chain[name] or chain[name] != baked[name]:
            raise Failed(f"{name} is {chain[name]} at /model and {baked[name]} in the image")
    running_onnx, exported = chain["onnx_sha256"], baked["onnx_sha256"]
    names = [name for name, digest in exported.items() if digest == running_onnx]
    if not names:
        raise Failed(f"the ONNX that runs, {running_onnx}, is none of those exported")
    short = " -> ".join(str(chain[name])[:12] for name in chain if chain[name])
    say(f"/model shows data set -> checkpoint -> weights -> ONNX: {short} ({names[0]})")
    return "chain of hashes as baked in"


def check(given: argparse.Namespace) -> list[str]:
    """All of it, in order of cost; returns what is worth a line."""
    tag = given.tag
    seen = [check_contents(tag, given.most_mb)]
    if given.runtime == "rtx":
        seen.append(check_rtx(tag))
    if not given.deployed:
        check_refusals(tag)
    with running(tag, given.weights) as (container, url):
        seen.append(wait_until_ready(container, url))
        if not seen[-1].startswith(CPU_BACKEND):
            raise Failed(f"without a GPU, auto takes {seen[-1]}, not {CPU_BACKEND}")
        key = re.search(r"^open http://.*#key=(\S+)", podman("logs", container).stdout, re.M)
        if key is None:
            raise Failed("the log does not start with the link and its key")
        say("prints the link with its key")
        if given.deployed:
            seen.append(check_chain(tag, url, key[1]))
        check_answers(url, key[1])
        podman("healthcheck", "run", container)
        say("its HEALTHCHECK is healthy")
    return seen


def main(arguments: Sequence[str]) -> int:
    """Returns 1 when the image does not do what it should."""
    parser = argparse.ArgumentParser(prog="check_image.py")
    parser.add_argument("tag")
    parser.add_argument("most_mb", type=int)
    parser.add_argument("--runtime", choices=("cpu", "rtx"), default="cpu")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--deployed", action="store_true")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        seen = check(given)
    except Failed as failure:
        say(f"FAILED: {failure}")
        return 1
    say(f"passed in {time.monotonic() - began:.0f} s: {'; '.join(seen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
