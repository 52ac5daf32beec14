"""Webhooks against a real HTTP server that fails first, lies, stalls or redirects."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rushes.server.webhook_signatures import signature
from rushes.server.webhooks import DELAYS_S, Webhooks
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import ApiKey, KeyLimits
from rushes.stores.base import JobRecord
from rushes.types import GenerateRequest, JobOptions, JobStatus, SamplingParams, VideoSpec

PAGE = Path(__file__).parents[2] / "docs" / "service.md"
WAIT_S = 20.0
RECORD = JobRecord(
    id="job",
    status="completed",
    request=GenerateRequest(
        prompt="a secret dog",
        negative_prompt="",
        pipeline="toy",
        video=VideoSpec(width=64, height=32, num_frames=5, fps=16),
        sampling=SamplingParams(
            num_inference_steps=4,
            solver="euler",
            flow_shift=3.0,
            guidance_high=1.0,
            guidance_low=1.0,
            seed=1,
        ),
    ),
    options=JobOptions(),
    created_at=1.0,
)


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server on a port of its own.

    Attributes:
        answers: status of each request in turn, the last one for ever.
        stall_s: before every answer.
    """

    answers: list[int] = field(default_factory=lambda: [200])
    stall_s: float = 0.0
    received: list[Received] = field(default_factory=list)
    most_at_once: int = 0
    port: int = 0

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_for(self, num: int) -> list[Received]:
        wait_until(lambda: len(self.received) >= num)
        return self.received


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()
    open_now: set[int] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                open_now.add(id(self))
                receiver.most_at_once = max(receiver.most_at_once, len(open_now))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                answer = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            time.sleep(receiver.stall_s)
            with lock:
                open_now.discard(id(self))
            try:
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
            except OSError:
                pass  # the sender did not wait

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving() as receiver:
        yield receiver


@contextmanager
def serving() -> Iterator[Receiver]:
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(receiver))
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    yield accounts
    accounts.close()


def video_of(record: JobRecord) -> dict[str, Any]:
    return {"id": record.id, "object": "video", "status": record.status, "prompt": record.request.prompt}


def make(accounts: AccountStore, **settings: Any) -> Webhooks:
    given = {"allow_private": True, "delays_s": (0.01, 0.01), "poll_s": 0.02} | settings
    return Webhooks(accounts, video_of, **given)


@contextmanager
def running(accounts: AccountStore, **settings: Any) -> Iterator[Webhooks]:
    webhooks = make(accounts, **settings)
    webhooks.start()
    try:
        yield webhooks
    finally:
        webhooks.stop()


def key_for(accounts: AccountStore, url: str | None) -> ApiKey:
    return accounts.keys.create("a", webhook_url=url)[0]


def ended(
    accounts: AccountStore, key: ApiKey, job_id: str = "job", status: JobStatus = "completed"
) -> JobRecord:
    """A job of this key that has just ended."""
    reservation = accounts.charges.reserve(
        key_id=key.id, tenant=key.tenant, job_key=job_id, predicted_s=1.0, limits=KeyLimits(), now=1e9
    )
    accounts.charges.bind(reservation, job_id)
    return replace(RECORD, id=job_id, status=status)


def verify(secret: str, message: Received) -> None:
    """The function that docs/service.md gives to receivers."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "def verify(" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    names["verify"](secret, message.headers, message.body)


def test_a_message_that_fails_twice_arrives(accounts: AccountStore, receiver: Receiver) -> None:
    receiver.answers = [500, 302, 204]
    key = key_for(accounts, receiver.url("/hook?a=b"))
    with running(accounts) as webhooks:
        webhooks.enqueue(ended(accounts, key))
        messages = receiver.wait_for(3)
        wait_until(lambda: not accounts.deliveries.count(is_open=True))
    assert len(messages) == 3
    assert {message.path for message in messages} == {"/hook?a=b"}, "no redirect is followed"
    assert len({message.headers["webhook-id"] for message in messages}) == 1
    assert len({message.body for message in messages}) == 1
    body = json.loads(messages[0].body)
    assert (body["type"], body["data"]["id"], body["data"]["status"]) == (
        "video.completed",
        "job",
        "completed",
    )
    assert messages[0].headers["content-type"] == "application/json"
    assert messages[0].headers["host"] == f"127.0.0.1:{receiver.port}"
    assert key.webhook is not None
    for message in messages:
        verify(key.webhook.secret, message)


@pytest.mark.parametrize(
    "change", ["body", "webhook-id", "webhook-timestamp", "webhook-signature", "secret", "old"]
)
def test_a_receiver_refuses_what_was_changed(accounts: AccountStore, receiver: Receiver, change: str) -> None:
    key = key_for(accounts, receiver.url())
    with running(accounts, clock=(lambda: time.time() - 400) if change == "old" else time.time) as webhooks:
        webhooks.enqueue(ended(accounts, key))
        (message,) = receiver.wait_for(1)
    assert key.webhook is not None
    secret = key.webhook.secret
    if change == "body":
        message = replace(message, body=message.body + b" ")
    elif change == "secret":
        secret = "whsec_" + "A" * 44
    elif change != "old":
        value = message.headers[change]
        message = replace(message, headers={**message.headers, change: value + "0"})
    with pytest.raises(ValueError, match=r"signature is wrong|too old"):
        verify(secret, message)


def test_a_signature_of_the_published_example() -> None:
    """The test vector of the Standard Webhooks specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_other_ends_are_failures(accounts: AccountStore, receiver: Receiver, status: JobStatus) -> None:
    key = key_for(accounts, receiver.url())
    with running(accounts) as webhooks:
        webhooks.enqueue(ended(accounts, key, status=status))
        (message,) = receiver.wait_for(1)
    assert json.loads(message.body)["type"] == "video.failed"


@pytest.mark.parametrize(("answers", "num_tries"), [([503], 3), ([410], 1), ([500, 410], 2)])
def test_when_to_give_up(
    accounts: AccountStore, receiver: Receiver, answers: list[int], num_tries: int
) -> None:
    receiver.answers = answers
    key = key_for(accounts, receiver.url())
    with running(accounts) as webhooks:
        webhooks.enqueue(ended(accounts, key))
        wait_until(lambda: accounts.deliveries.count(is_open=False) == 1)
        time.sleep(0.1)
    assert len(receiver.received) == num_tries


def test_the_tries_take_a_day() -> None:
    assert 23.5 * 3600 < sum(DELAYS_S) < 24.5 * 3600
    assert list(DELAYS_S) == sorted(DELAYS_S)


def test_a_private_target_is_refused(
    accounts: AccountStore, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
        key = key_for(accounts, receiver.url().replace("127.0.0.1", host))
        with running(accounts, allow_private=False, delays_s=()) as webhooks:
            webhooks.enqueue(ended(accounts, key, job_id=host))
            wait_until(lambda: not accounts.deliveries.count(is_open=True))
    assert receiver.received == []
    assert caplog.text.count("is not a public address; --allow-private-webhooks allows it") == 4


def test_a_receiver_that_stalls_is_left(accounts: AccountStore, receiver: Receiver) -> None:
    """It keeps its own messages waiting, and nobody else's."""
    receiver.stall_s = 1.0
    slow = key_for(accounts, receiver.url())
    with serving() as other, running(accounts, timeout_s=0.2, delays_s=()) as webhooks:
        quick = key_for(accounts, other.url())
        for i in range(3):
            webhooks.enqueue(ended(accounts, slow, job_id=f"slow {i}"))
        start = time.monotonic()
        for i in range(3):
            webhooks.enqueue(ended(accounts, quick, job_id=f"quick {i}"))
        other.wait_for(3)
        assert time.monotonic() - start < 3.0
        receiver.wait_for(2)
        wait_until(lambda: accounts.deliveries.count(is_open=False) >= 4)


def test_a_keys_messages_go_one_after_another(accounts: AccountStore, receiver: Receiver) -> None:
    receiver.stall_s = 0.02
    key = key_for(accounts, receiver.url())
    with running(accounts) as webhooks:
        for i in range(6):
            webhooks.enqueue(ended(accounts, key, job_id=f"job {i}"))
        receiver.wait_for(6)
    assert receiver.most_at_once == 1


def test_several_gateways_send_once(accounts: AccountStore, receiver: Receiver, tmp_path: Path) -> None:
    """Each hears of every end, through a store of its own on the same file."""
    key = key_for(accounts, receiver.url())
    records = [ended(accounts, key, job_id=f"job {i}") for i in range(8)]
    stores = [AccountStore(tmp_path / "accounts.sqlite") for _ in range(3)]
    gateways = [make(store) for store in stores]
    for gateway in gateways:
        gateway.start()
    for record in records:
        for gateway in gateways:
            gateway.enqueue(record)
    receiver.wait_for(8)
    wait_until(lambda: not accounts.deliveries.count(is_open=True))
    for gateway, store in zip(gateways, stores, strict=True):
        gateway.stop()
        store.close()
    sent = [json.loads(message.body)["data"]["id"] for message in receiver.received]
    assert sorted(sent) == sorted(record.id for record in records)


def test_what_was_enqueued_outlives_the_gateway(accounts: AccountStore, receiver: Receiver) -> None:
    key = key_for(accounts, receiver.url())
    stopped = make(accounts)
    stopped.enqueue(ended(accounts, key))
    stopped.stop()
    assert receiver.received == []
    with running(accounts):
        receiver.wait_for(1)


def test_stopping_lets_a_message_in_flight_end(accounts: AccountStore, receiver: Receiver) -> None:
    receiver.stall_s = 0.3
    key = key_for(accounts, receiver.url())
    webhooks = make(accounts)
    webhooks.start()
    webhooks.enqueue(ended(accounts, key))
    receiver.wait_for(1)
    webhooks.stop()
    assert accounts.deliveries.count(is_open=False) == 1
    webhooks.stop()


def test_whoever_wants_no_messages_gets_none(accounts: AccountStore, receiver: Receiver) -> None:
    without, revoked = key_for(accounts, None), key_for(accounts, receiver.url())
    accounts.keys.revoke(revoked.id)
    with running(accounts) as webhooks:
        webhooks.enqueue(ended(accounts, without, job_id="a"))
        webhooks.enqueue(ended(accounts, revoked, job_id="b"))
        webhooks.enqueue(replace(RECORD, id="nobody's"))
        time.sleep(0.1)
    assert receiver.received == []
    assert accounts.deliveries.count(is_open=True) == 0


def test_logs_hold_no_url_no_prompt_and_no_secret(
    accounts: AccountStore, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = [500, 200]
    keys = [key_for(accounts, url) for url in (receiver.url("/token"), "http://127.0.0.1:9/token")]
    with running(accounts, delays_s=(0.01,)) as webhooks:
        for key in keys:
            webhooks.enqueue(ended(accounts, key, job_id=key.id))
        wait_until(lambda: accounts.deliveries.count(is_open=False) == 2)
    ours = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert any(f"webhook of key {keys[0].id}" in line and "answered 500" in line for line in ours)
    assert any("ConnectError" in line for line in ours)
    for word in ("token", "secret dog", *(key.webhook.secret for key in keys if key.webhook)):
        assert word not in "\n".join(ours)
