"""Structured logs: one JSON object per line, with the id of the request it belongs to.

Ids, sizes, codes and times only; never a key, a name that a user chose, or a byte of a body.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

request_id_variable: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the request that this task works for; set by the middleware."""

LOGGER = "server"


class AlreadyLogged(Exception):
    """Ends a response abnormally; the log has the reason, and uvicorn need not tell it again."""


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "event", "request_id", …}``; extra fields come from ``log_event``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        request_id = request_id_variable.get()
        if request_id:
            line["request_id"] = request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_event(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Writes one line about ``event``."""
    logging.getLogger(LOGGER).log(level, event, extra={"fields": fields})


def log_bug(event: str, **fields: object) -> None:
    """Writes the exception being handled, with its traceback: it is a bug of ours."""
    logging.getLogger(LOGGER).error(event, exc_info=True, extra={"fields": fields})


def _is_news(record: logging.LogRecord) -> bool:
    told = (AlreadyLogged, asyncio.CancelledError)  # the latter by the middleware
    return not (record.exc_info and isinstance(record.exc_info[1], told))


def configure_logs(stream: TextIO | None = None) -> None:
    """Sends the logs of the server and of uvicorn to ``stream`` (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    for name in (LOGGER, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == LOGGER else logging.WARNING)
