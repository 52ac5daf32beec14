"""Logs of gateways and workers: one JSON object a line, or text, with the ids of what they are about.

Keys never get into a log, prompts only where they are asked for. Nothing in Rushes logs either by intent; the
`Redactor` is for what slips through: a message of another library's, a traceback that quotes a value.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from rushes import trace
from rushes.errors import ConfigError
from rushes.server.redaction import Redactor

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")
IDS = ("request_id", "trace_id", "job_id")

_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
"""What every record has; the rest was given as `extra`."""

_state: ContextVar[MutableMapping[str, Any] | None] = ContextVar("rushes_request_state", default=None)


def about(state: MutableMapping[str, Any]) -> None:
    """Records of this context are of the request with this state (ASGI's `scope["state"]`), whose
    `request_id`, `trace_id` and `job_id` they show as they are when the record is made."""
    _state.set(state)


def conceal(*texts: object) -> None:
    """Keep these prompts out of what is logged about the present request, or outside of any of what
    the process logs for a while. What is no text is no prompt."""
    found = [text for text in texts if isinstance(text, str) and text]
    state = _state.get()
    if state is not None:
        state.setdefault("concealed", []).extend(found)
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.redactor.conceal(*found)


def name_job(job_id: str) -> None:
    """The present request is about this job."""
    state = _state.get()
    if state is not None:
        state["job_id"] = job_id


def ids() -> dict[str, str]:
    """Of the request that is being answered here, or of the job that is being worked for."""
    state = _state.get()
    if state is not None:
        return {name: str(state[name]) for name in IDS if state.get(name)}
    root = trace.current()
    while root is not None and root.parent is not None:
        root = root.parent
    if root is None or "job" not in root.attributes:
        return {}
    found = {"job_id": str(root.attributes["job"])}
    traceparent = root.attributes.get("traceparent")
    if traceparent:
        found["trace_id"] = str(traceparent).split("-")[1]
    return found


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at` (UTC), `level`, `logger`, `message`, the ids, what was given as `extra`,
    and `exception`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`. Never raises for what a record holds."""
        clean = self._cleaner()
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage()),
            **ids(),
        }
        for name, value in record.__dict__.items():
            if name not in _PLAIN:
                line[name] = self.redactor.field(name, value, clean)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = clean(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: clean(repr(value)))

    def _cleaner(self) -> Callable[[str], str]:
        return self.redactor.cleaner((_state.get() or {}).get("concealed", ()))


class TextFormatter(JsonFormatter):
    """`rushes: WARNING: message (job_id=...)`, for a reader at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        clean = self._cleaner()
        message = _CONTROL.sub(_escaped, clean(record.getMessage()))
        text = f"rushes: {record.levelname}: {message}"
        told = " ".join(f"{name}={value}" for name, value in ids().items())
        if told:
            text += f" ({told})"
        if record.exc_info and record.exc_info[0] is not None:
            text += f"\n{clean(self.formatException(record.exc_info))}"
        return text


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _escaped(found: re.Match[str]) -> str:
    """A path may hold a line break, which must not look like another record."""
    return found.group().encode("unicode_escape").decode()


def configure_logs(
    log_format: LogFormat = "text",
    level: str = "info",
    *,
    redactor: Redactor | None = None,
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send every record of the process to `stream` (stderr), and nowhere else; returns the handler.

    Uvicorn's records go there too, without its access log, in whose place is `AccessLogMiddleware`'s, and
    without its copy of errors that the application has logged with its ids. Libraries speak from WARNING on.

    Raises:
        ConfigError: an unknown format or level.
    """
    if log_format not in get_args(LogFormat):
        raise ConfigError(f"log_format: {log_format!r} is not one of {', '.join(get_args(LogFormat))}")
    if level not in LEVELS:
        raise ConfigError(f"log_level: {level!r} is not one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    kind = JsonFormatter if log_format == "json" else TextFormatter
    handler.setFormatter(kind(redactor or Redactor()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, _number(level)))
    # It tells at every start which of its kernels are for other machines, and transformers loads it.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    for name in ("rushes", "uvicorn"):
        logging.getLogger(name).setLevel(_number(level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = name != "uvicorn.access"
    errors = logging.getLogger("uvicorn.error")
    errors.filters[:] = [_is_news]
    return handler


def _number(level: str) -> int:
    number: int = getattr(logging, level.upper())
    return number


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Exception in ASGI application")
