"""Builds the serving image with a model of one's own, and its chain of hashes, inside.

    deploy.py WEIGHTS.safetensors ONNX_FOLDER [--runtime rtx] [--tag sr-server]

``make deploy RUN=runs/mine`` calls it. The image gets ``/models/weights.safetensors`` and
``/models/chain.json``: data set -> checkpoint -> weights -> ONNX, to be compared with what
``/model`` of the running server says. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = ROOT / "build" / "deploy"
"""The part of the build context that goes to ``/models``."""
DOCKERFILE = "docker/server.Dockerfile"
BUILD_SCRIPT = "../shared/docker-build-check"
NAME = "weights.safetensors"
"""As in a run: the name is part of the ONNX, and so of its hash."""


class DeployError(Exception):
    """The image cannot be built; the message is one sentence."""


def header_of(weights: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises DeployError when it is none."""
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > weights.stat().st_size:
                raise DeployError(f"{weights} is no safetensors file")
            metadata = json.loads(file.read(length)).get("__metadata__", {})
    except OSError as error:
        raise DeployError(f"{weights} cannot be read: {error.strerror}") from None
    except (ValueError, struct.error, AttributeError):
        raise DeployError(f"{weights} is no safetensors file") from None
    return dict(metadata)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def chain_of(weights: Path, onnx_folder: Path) -> dict[str, object]:
    """What the weights were made from, what they are, and each ONNX that was made from them.

    Raises:
        DeployError: the weights are untrained, or do not say what they were made from, or there
            is no ONNX of them.
    """
    header = header_of(weights)
    if header.get("trained") != "true":
        raise DeployError(f"{weights} is not trained, so the server would refuse it")
    made_from = ("dataset_sha256", "checkpoint_sha256")
    missing = [name for name in made_from if not header.get(name)]
    if missing:
        raise DeployError(f"{weights} does not say its {' and '.join(missing)}: train it again")
    graphs = {path.name: sha256_of(path) for path in sorted(onnx_folder.glob("*.onnx"))}
    if not graphs:
        raise DeployError(f"{onnx_folder} holds no ONNX files: run sr-engine export first")
    chain: dict[str, object] = {name: header[name] for name in made_from}
    return chain | {"weights_sha256": sha256_of(weights), "onnx_sha256": graphs}


def fill_context(weights: Path, chain: dict[str, object]) -> None:
    """Puts the model and its chain, and nothing else, where the Dockerfile takes them from."""
    shutil.rmtree(CONTEXT, ignore_errors=True)
    CONTEXT.mkdir(parents=True)
    shutil.copy(weights, CONTEXT / NAME)
    (CONTEXT / "chain.json").write_text(json.dumps(chain, indent=1) + "\n")
    for path in (CONTEXT, *CONTEXT.iterdir()):  # the server in the image is another user
        path.chmod(0o755 if path.is_dir() else 0o644)


def digest_of(chain: dict[str, object]) -> str:
    """What tells two chains apart."""
    return hashlib.sha256(json.dumps(chain, sort_keys=True).encode()).hexdigest()


def build_command(tag: str, runtime: str, chain_sha256: str) -> list[str]:
    """``docker build``, or the build script of docker/check.sh: if it is named, or without Docker.

    Raises:
        DeployError: neither is there.
    """
    values = {"RUNTIME": runtime, "MODEL": f"/models/{NAME}", "CHAIN_SHA256": chain_sha256}
    arguments = [word for item in values.items() for word in ("--build-arg", "=".join(item))]
    script = os.environ.get("DOCKER_BUILD_CHECK", BUILD_SCRIPT)
    has_script = os.access(ROOT / script, os.X_OK)
    docker = shutil.which("docker")
    # A script that was named wins: the docker command may be there without its engine.
    if docker and not (has_script and "DOCKER_BUILD_CHECK" in os.environ):
        return [docker, "build", "-f", DOCKERFILE, *arguments, "-t", tag, "."]
    if has_script:
        return [script, DOCKERFILE, ".", tag, *arguments]
    raise DeployError(f"neither docker nor {script} is here to build an image with")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the build; 2 when it cannot begin."""
    parser = argparse.ArgumentParser(prog="deploy.py", description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("onnx_folder", type=Path)
    parser.add_argument("--runtime", choices=("cpu", "rtx", "tensorrt"), default="rtx")
    parser.add_argument("--tag", default="sr-server")
    given = parser.parse_args(arguments)
    try:
        chain = chain_of(given.weights, given.onnx_folder)
        command = build_command(given.tag, given.runtime, digest_of(chain))
    except DeployError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 2
    fill_context(given.weights, chain)
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    finally:
        # An image that is built without a model of one's own must not find this one.
        shutil.rmtree(CONTEXT, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
