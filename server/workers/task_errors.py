"""Errors of tasks on their way to HTTP: every expected one becomes what its caller is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError, EngineFault
from server.media.errors import Cancelled, CodecUnavailable, DiskFull, EncodeError, MediaError
from server.workers.channel import Message
from server.workers.child import (
    TaskCancelled,
    TaskContext,
    TaskFailed,
    TaskFunction,
    WorkerUnfit,
)

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def typed(function: TaskFunction) -> TaskFunction:
    """``function`` with every expected error turned into what the caller is told."""

    def run(task: Message, context: TaskContext) -> Message:
        with _errors_as_details():
            return function(task, context)

    return run


@contextmanager
def _errors_as_details() -> Iterator[None]:
    try:
        yield
    except Cancelled:
        raise TaskCancelled from None
    except MediaError as error:
        raise TaskFailed(
            {
                "code": error.code,
                "status": 400 if error.code == "bad_parameter" else error.status,
                "message": error.message,
                "limit": error.limit,
                "actual": error.actual,
            }
        ) from error
    except CodecUnavailable as error:
        raise TaskFailed({"code": "bad_parameter", "message": str(error)}) from error
    except DiskFull as error:
        raise TaskFailed({"code": "disk_full", "message": str(error)}) from error
    except EngineFault as error:
        # A device that failed once may go on to fail, or worse, to lie: it gets a new process.
        raise WorkerUnfit({"code": "engine_failed", "message": str(error)}) from error
    except (EncodeError, EngineError) as error:
        raise TaskFailed({"code": "engine_failed", "message": str(error)}) from error
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        message = "the disk is full; try again when jobs have been deleted"
        raise TaskFailed({"code": "disk_full", "message": message}) from error
