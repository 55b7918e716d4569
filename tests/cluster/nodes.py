"""Ray nodes as processes of this machine, for tests that lose one of them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.cluster.connection import QUIET
from tests.server.live import DEADLINE_SECONDS, ROOT, wait_until

STORE_BYTES = 80 * 1024 * 1024
"""Of each node's object store: little, as in a container with a small /dev/shm."""
STARTS = 3
"""Times that a node is started until it is up."""


@dataclass
class Node:
    """A running ``ray start --block`` and everything that it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def is_up(self) -> bool:
        """Whether it has registered; it says so in its log."""
        return "block forever" in self.log.read_text()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def stop_at_work(self) -> bool:
        """Suspends it if one of its makers is at a segment, and says whether."""
        family = self.family()
        if not any(_is_making(member) for member in family):
            return False
        for member in family:
            member.suspend()
        if any(_is_making(member) for member in family):
            return True
        for member in family:
            member.resume()
        return False

    def makers(self) -> list[psutil.Process]:
        """Its workers that make segments, busy or not."""
        return [each for each in self.family() if _title(each).startswith("ray::SegmentMaker")]

    def kill(self) -> None:
        """As if its machine lost power."""
        if self.process.poll() is None:
            family = self.family()
            for member in family:
                member.suspend()  # so that none of them starts another meanwhile
            for member in family:
                member.kill()
            psutil.wait_procs(family, DEADLINE_SECONDS)
        self.process.wait()


@dataclass
class Nodes:
    """A cluster of a head and others."""

    address: str
    each: list[Node]
    """The head first."""


@contextmanager
def ray_nodes(folder: Path, count: int = 2, cpus: int = 2) -> Iterator[Nodes]:
    """Starts ``count``, each said to have ``cpus``; no process of theirs is left at the end."""
    ports = free_ports(2 + 4 * count)
    address = f"127.0.0.1:{ports[0]}"
    # The name of a socket in there has at most 107 characters.
    temporary = Path("/tmp") / f"ray-{os.getpid()}"
    head = ["--head", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    head += [f"--temp-dir={temporary}", "--include-dashboard=false"]
    with ExitStack() as stack:
        stack.callback(_remove, temporary)
        nodes = []
        for options in (head, *[[f"--address={address}"]] * (count - 1)):
            log = folder / f"node{len(nodes)}.log"
            nodes.append(
                _started(stack, [*options, f"--num-cpus={cpus}"], ports[2 + 4 * len(nodes) :], log)
            )
        yield Nodes(address, nodes)
    wait_until(
        lambda: not any(_belongs(each, temporary) for each in psutil.process_iter()),
        "an end of all processes",
    )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that clients get: they stay free.

    Above those of ``lasting_port``, which must not give away what an agent takes only later.
    """
    found = []
    for port in range(31_999 - os.getpid() % 4_000, 20_000, -1):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("there are not so many free ports")


def environment() -> dict[str, str]:
    """Of everything in the cluster: with a token, as Ray wants it, and nothing of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SR_")}
    service = {
        "SR_BACKEND": "nearest",
        "SR_INSECURE": "1",
        "SR_CALIBRATE": "off",
        "SR_WORKERS": "1",
        "SR_DISK_KEEP_BYTES": "0",
        "SR_CLUSTER": "auto",
    }
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    return {
        **kept,
        **QUIET,
        **service,
        **token,
        "PYTHONPATH": str(ROOT),
        "RAY_enable_worker_prestart": "0",
    }


def _started(stack: ExitStack, options: list[str], ports: list[int], log: Path) -> Node:
    """A node that is up. Ray gives up on its own after 30 s, which a busy machine may need."""
    for _ in range(STARTS):
        node = _start(options, ports, log)
        stack.callback(node.kill)
        wait_until(lambda n=node: n.is_up() or n.has_ended(), "a Ray node", 3 * DEADLINE_SECONDS)  # type: ignore[misc]
        if not node.has_ended():
            return node
    raise AssertionError(log.read_text())


def _start(options: list[str], ports: list[int], log: Path) -> Node:
    names = (
        "metrics-export-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options),
        *("--node-ip-address=127.0.0.1", "--num-gpus=0", "--disable-usage-stats"),
        f"--object-store-memory={STORE_BYTES}",
        # With known ports a node does not give up on its agents where they start slowly.
        *(f"--{name}={port}" for name, port in zip(names, ports, strict=False)),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment(), stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    return Node(process, log)


def _is_making(process: psutil.Process) -> bool:
    return _title(process).startswith("ray::SegmentMaker.make")


def _title(process: psutil.Process) -> str:
    """Ray names a worker's process by its actor and the method that it is in."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _belongs(process: psutil.Process, temporary: Path) -> bool:
    try:
        return any(str(temporary) in part for part in process.cmdline())
    except psutil.Error:
        return False


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
