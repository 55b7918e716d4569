"""A worker whose tasks do what a test asks: the real child loop, no engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from server.workers.channel import Channel, Message
from server.workers.child import TaskContext, TaskFailed, serve


def echo(task: Message, context: TaskContext) -> Message:
    context.report({"seen": task["say"]})
    return {"said": task["say"], "pid": os.getpid()}


def die(task: Message, context: TaskContext) -> Message:
    """Dies the first time for each ``marker``; a retry succeeds."""
    marker = Path(task["marker"])
    if task.get("always") or not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


def hang(task: Message, context: TaskContext) -> Message:
    """Neither reports nor listens."""
    threading.Event().wait()
    return {}


def obey(task: Message, context: TaskContext) -> Message:
    """Works until it is cancelled."""
    context.report({"working": True})
    context.cancelled.wait()
    context.raise_if_cancelled()
    return {}


def trip(task: Message, context: TaskContext) -> Message:
    """Finds its files gone when its caller has left, before it notices that."""
    context.report({"working": True})
    context.cancelled.wait()
    raise FileNotFoundError("input")


def wait_for(task: Message, context: TaskContext) -> Message:
    """Works until somebody writes into the FIFO ``gate``."""
    context.report({"working": True})
    Path(task["gate"]).read_bytes()
    return {"pid": os.getpid()}


def check(task: Message, context: TaskContext) -> Message:
    context.raise_if_cancelled()
    return {}


def fail(task: Message, context: TaskContext) -> Message:
    raise TaskFailed({"code": "unusable_media", "message": "no", "limit": 1, "actual": 2})


def bug(task: Message, context: TaskContext) -> Message:
    raise RuntimeError("secret detail")


def job(task: Message, context: TaskContext) -> Message:
    """Makes frames, some of them twice, and works until it is cancelled."""
    for frames in (3, 2, 7):
        context.report({"frames": frames})
    return obey(task, context)


TASKS = {
    "job": job,
    "echo": echo,
    "die": die,
    "hang": hang,
    "picture": hang,
    "obey": obey,
    "trip": trip,
    "wait_for": wait_for,
    "check": check,
    "fail": fail,
    "bug": bug,
}


def main() -> None:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    config = json.loads(sys.argv[2])
    if config.get("unusable"):
        channel.send({"event": "fatal", "message": "there is no such engine here"})
        return
    if config.get("dies_at_start"):
        sys.exit(1)
    channel.send({"event": "building", "what": "a plan", "fraction": 0.5})
    if config.get("backend") == "auto":
        Path(config["cache_dir"]).read_bytes()  # a FIFO: built when the test says so
    marker = Path(config.get("dies_before_it_begins", os.devnull))
    if config.get("always") or not marker.exists():
        channel.send({"event": "ready", "engine": {}})
        next(channel.messages())
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    hello = {"engine": {"backend": "fake", "name": config.get("backend", "")}}
    serve(channel, TASKS, hello, lambda: {"gpu_memory": {"used": 3, "total": 16}})


if __name__ == "__main__":
    main()
