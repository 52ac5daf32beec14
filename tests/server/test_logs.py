"""Logs of a process: JSON lines with ids, and neither keys nor prompts in them."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
from observed_app import served

from rushes.engine.otlp import tracer_provider
from rushes.errors import ConfigError
from rushes.server.logs import LogFormat, configure_logs
from rushes.server.metrics import GatewayMetrics
from rushes.server.redaction import Redactor
from rushes.trace import SpanList, begin, end, listen, under

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
PROMPT = (
    "a hidden dog, ä 'quoted'\nrunning through a very long and private prompt that somebody may cut short"
)
KEY = "rk_abcdefghijklmnopqrstuvwxyz0123456789"
LOGGERS = ("", "rushes", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is the process's own; other tests listen to it too."""
    before = [
        (log, log.handlers[:], log.filters[:], log.level, log.propagate)
        for log in map(logging.getLogger, LOGGERS)
    ]
    yield
    for log, handlers, filters, level, propagate in before:
        log.handlers[:], log.filters[:], log.level, log.propagate = handlers, filters, level, propagate


def logging_to(log_format: LogFormat = "json", level: str = "info", **options) -> io.StringIO:
    stream = io.StringIO()
    configure_logs(log_format, level, stream=stream, **options)
    return stream


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_of_json() -> None:
    stream = logging_to()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("rushes.x").exception("it failed: %s", "why\nso", extra={"num": 3, "odd": {1}})
    logging.getLogger("rushes.x").debug("unheard")
    logging.getLogger("somebody").info("unheard")
    (line,) = lines(stream)
    assert (line["level"], line["logger"], line["message"]) == ("error", "rushes.x", "it failed: why\nso")
    assert line["num"] == 3
    assert line["odd"] == "{1}"
    assert "ValueError: two\nlines" in line["exception"]
    assert line["at"].endswith("+00:00")


def test_requests_are_told_once_with_their_ids() -> None:
    stream = logging_to(level="debug")
    with tracer_provider("gateway", None) as tracing, served(GatewayMetrics(), tracing.tracer) as url:
        httpx2.get(f"{url}/v1/videos/7?key={KEY}", headers={"traceparent": TRACEPARENT})
        httpx2.get(f"{url}/health")
    found = [line for line in lines(stream) if line["logger"] in ("rushes.access", "rushes.tests")]
    looked_up, answered, health = found
    assert looked_up["message"] == "looked up"
    ids = {"request_id": "req_1", "trace_id": TRACE, "job_id": "7"}
    assert looked_up.items() >= ids.items()
    assert answered.items() >= ids.items()
    assert (answered["method"], answered["path"], answered["status"]) == ("GET", "/v1/videos/7", 200)
    assert answered["route"] == "/v1/videos/{video_id}"
    assert 0 < answered["seconds"] < 5
    assert answered["bytes"] > 10
    assert health["level"] == "debug"
    assert KEY not in stream.getvalue()
    assert not [line for line in lines(stream) if line["logger"] == "uvicorn.access"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_failing_request_shows_neither_key_nor_prompt(log_format: LogFormat) -> None:
    stream = logging_to(log_format)
    with tracer_provider("gateway", None) as tracing, served(GatewayMetrics(), tracing.tracer) as url:
        answer = httpx2.post(
            f"{url}/v1/videos", json={"prompt": PROMPT}, headers={"authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code == 500
        logging.getLogger("uvicorn.error").error("Another: %s", KEY)
    text = stream.getvalue()
    assert "POST /v1/videos 500" in text
    for part in ("hidden dog", "private prompt", KEY, KEY[4:20]):
        assert part not in text


def test_prompts_are_shown_where_they_are_asked_for_and_keys_are_not() -> None:
    redactor = Redactor(shows_prompts=True)
    redactor.conceal(PROMPT)
    stream = logging_to(redactor=redactor)
    logging.getLogger("rushes").info("%s %s", PROMPT, KEY, extra={"prompt": PROMPT, "api_key": KEY})
    (line,) = lines(stream)
    assert line["message"].startswith(PROMPT)
    assert line["prompt"] == PROMPT
    assert KEY not in stream.getvalue()


@pytest.mark.parametrize(
    "secret",
    [
        f"Authorization: Bearer {KEY}",
        f"authorization='basic {KEY[3:]}'",
        KEY,
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "redis://user:C2FVsBQIhrscChlQ@host:6379/0",
        "https://b.s3/x?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature=C2FVsBQIhrscChlQ",
        "AKIAIOSFODNN7EXAMPLE",
        "GET /v1/videos?api_key=C2FVsBQIhrscChlQ",
        "password=C2FVsBQIhrscChlQ",
    ],
)
def test_planted_keys_are_found(secret: str) -> None:
    stream = logging_to()
    log = logging.getLogger("rushes")
    log.info("said %s", secret)
    log.info(secret, extra={"note": secret, "more": [secret]})
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
    for part in (KEY[3:], "C2FVsBQIhrscChlQ", "AKIAIOSFODNN7EXAMPLE"):
        assert part not in stream.getvalue()
    assert stream.getvalue().count("[key]") >= 4


@pytest.mark.parametrize(
    "write", [str, repr, ascii, json.dumps, lambda text: text[:60] + "...", lambda t: [t]]
)
@pytest.mark.parametrize(
    "prompt", [PROMPT, "a dog", "x", "犬が走る", "\"both\" 'kinds'", "tab\there", "a\\b"]
)
def test_planted_prompts_are_found(prompt: str, write) -> None:
    redactor = Redactor()
    redactor.conceal(prompt)
    stream = logging_to(redactor=redactor)
    logging.getLogger("rushes").warning("refused: %s", write(prompt))
    (line,) = lines(stream)
    assert "[prompt]" in line["message"], line
    for part in ("hidden", "dog", "犬", "kinds", "there", "\\u72ac"):
        assert part not in line["message"]


def test_a_short_prompt_leaves_other_words_alone() -> None:
    redactor = Redactor()
    redactor.conceal("a")
    stream = logging_to(redactor=redactor)
    logging.getLogger("rushes").warning("saved at data: a")
    assert lines(stream)[0]["message"] == "saved at data: [prompt]"


def test_fields_are_hidden_by_name() -> None:
    stream = logging_to()
    logging.getLogger("rushes").info(
        "x", extra={"Authorization": "x1", "prompt": "y1", "negative_prompt": "z1"}
    )
    for part in ("x1", "y1", "z1"):
        assert part not in stream.getvalue()


def test_a_workers_records_name_the_job_that_they_are_about() -> None:
    stream = logging_to()
    with listen(SpanList()):
        request = begin("request", job="j1", traceparent=TRACEPARENT)
        with under(request), under(begin("denoise")):
            logging.getLogger("rushes").warning("slow")
        end(request)
    (line,) = lines(stream)
    assert (line["job_id"], line["trace_id"]) == ("j1", TRACE)


def test_text_is_for_readers_and_no_line_can_be_forged() -> None:
    stream = logging_to("text")
    logging.getLogger("rushes").warning("GET /a\nrushes: ERROR: forged\x1b[31m")
    assert stream.getvalue() == "rushes: WARNING: GET /a\\nrushes: ERROR: forged\\x1b[31m\n"


@pytest.mark.parametrize(("what", "value"), [("log_format", "xml"), ("level", "loud")])
def test_unknown_settings_are_named(what: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        configure_logs(**{what: value})


def test_logs_need_nothing_that_a_worker_may_lack() -> None:
    code = "import sys, rushes.server.logs; print({'starlette', 'opentelemetry', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
