"""The worker process; ``server.workers.process`` starts it with a descriptor and a config."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys

from engine.errors import EngineError, EngineFault
from server.media.sandbox import what_holds
from server.workers.channel import Channel
from server.workers.child import serve
from server.workers.tasks import EngineTasks

OK, FAULT, NO_ENGINE = 0, 1, 3


def main() -> int:
    """Opens the engine that CONFIG names and serves the descriptor FD."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is for HTTP to handle
    with contextlib.suppress(ConnectionError):  # HTTP is gone, and wants nothing any more
        return _work()
    return OK


def _work() -> int:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    config = json.loads(sys.argv[2])
    channel.send({"event": "starting"})
    sandbox = what_holds()

    def on_build(what: str, fraction: float) -> None:
        channel.send({"event": "building", "what": what, "fraction": round(fraction, 3)})

    try:
        tasks = EngineTasks(config, on_build)
    except EngineFault as error:  # as if it had died: the next one may be well
        print(f"worker: {error}", file=sys.stderr)
        return FAULT
    except EngineError as error:
        channel.send({"event": "fatal", "message": str(error)})
        return NO_ENGINE
    with tasks:
        hello = {"engine": tasks.info(), "sandbox": sandbox}
        serve(channel, tasks.table(), hello, tasks.vitals)
    return OK


if __name__ == "__main__":
    sys.exit(main())
