"""Tells keys' owners of the ends of their jobs: signed, durable, tried again for a day."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import httpx2

from rushes import __version__
from rushes.errors import StoreError, UnknownKey
from rushes.server.webhook_signatures import signature
from rushes.server.webhook_targets import PrivateTarget, addresses
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import ApiKey
from rushes.stores.base import JobRecord
from rushes.stores.deliveries import Delivery
from rushes.types import Json

DELAYS_S = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 28800.0, 28800.0)
"""Between a try and the next: nine tries in 24 hours, and up to a fifth more by chance."""
TIMEOUT_S = 10.0
"""Of a try as a whole: resolving, connecting, sending, the status line of the answer."""
_CONNECT_S = 4.0  # to one of several addresses
_LEASE_S = 30.0
_JITTER = 0.2
_MOST_AT_ONCE = 16
_KEEP_S = 7 * 24 * 3600.0
_SWEEP_EVERY_S = 3600.0
_GONE = 410

logger = logging.getLogger(__name__)


class Webhooks:
    """Sends from a thread of its own, between `start` and `stop`. What is enqueued is kept in the account
    store, so any gateway of that store may send it; each try is made by one of them.

    A receiver may get a message twice (a gateway that dies before it has noted the answer): its `webhook-id`
    is the same. Messages of one key go out one after another, those of other keys beside them. No redirect is
    followed, no proxy of the environment used, no answer's body read.

    Args:
        video_of: the video object of an ended job.
        allow_private: send to addresses that are not on the public internet, too.
        delays_s: between tries; when none is left, the message is given up, as after an answer 410.
        timeout_s: of a try as a whole; well below the 30 s for which a gateway holds a message.
        poll_s: how often to look for messages that other gateways enqueued, or whose time has come.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        accounts: AccountStore,
        video_of: Callable[[JobRecord], Mapping[str, Json]],
        *,
        allow_private: bool = False,
        delays_s: Sequence[float] = DELAYS_S,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._accounts, self._video_of = accounts, video_of
        self._allow_private = allow_private
        self._delays_s, self._timeout_s = tuple(delays_s), timeout_s
        self._poll_s, self._clock = poll_s, clock
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell = asyncio.Event()
        self._swept_at = -float("inf")

    def enqueue(self, record: JobRecord) -> None:
        """Note that a job has ended, to be told if its key has a webhook. Again, or by another gateway,
        changes nothing. Raises `StoreError`: not noted."""
        key = self._key_of(record.id)
        if key is None or key.webhook is None or key.revoked_at is not None:
            return
        now = self._clock()
        body = {
            "type": "video.completed" if record.status == "completed" else "video.failed",
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
            "data": self._video_of(record),
        }
        if self._accounts.deliveries.add(record.id, key_id=key.id, body=json.dumps(body), now=now):
            self._wake()

    def start(self) -> None:
        """Begin to send. A second call is a mistake of the caller's."""
        assert self._thread is None, "webhooks are started once"
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = TIMEOUT_S + 5.0) -> None:
        """Let what is being sent end, and send no more; a second call does nothing."""
        self._is_stopping.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _key_of(self, job_id: str) -> ApiKey | None:
        charge = self._accounts.charges.get(job_id)
        if charge is None:
            return None
        try:
            return self._accounts.keys.get(charge.key_id)
        except UnknownKey:
            return None

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(self._bell.set)

    def _run(self) -> None:
        asyncio.run(self._send_all())

    async def _send_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        sending: set[asyncio.Task[None]] = set()
        # Connections go to addresses, not names: one that is kept open could serve the wrong name.
        # Without a client above it, a transport logs no URL, follows no redirect, reads no environment.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncHTTPTransport(limits=limits, trust_env=False) as transport:
            while not self._is_stopping.is_set():
                self._bell.clear()
                for delivery in self._due(_MOST_AT_ONCE - len(sending)):
                    task = asyncio.create_task(self._try(transport, delivery))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                    task.add_done_callback(lambda _: self._bell.set())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._bell.wait(), self._poll_s)
            if sending:
                await asyncio.wait(sending)

    def _due(self, limit: int) -> Sequence[Delivery]:
        """What this gateway sends now; nothing while the store cannot be used."""
        if not limit:
            return ()
        try:
            self._sweep()
            longest_wait_s = max(self._delays_s, default=0.0) * (1 + _JITTER)
            return self._accounts.deliveries.claim(
                limit=limit, now=self._clock(), lease_s=_LEASE_S, longest_wait_s=longest_wait_s
            )
        except StoreError as error:
            logger.warning("webhooks wait: %s", error)
            return ()

    def _sweep(self) -> None:
        if time.monotonic() >= self._swept_at + _SWEEP_EVERY_S:
            self._swept_at = time.monotonic()
            self._accounts.deliveries.sweep(keep_s=_KEEP_S, now=self._clock())

    async def _try(self, transport: httpx2.AsyncHTTPTransport, delivery: Delivery) -> None:
        error, is_final = await self._outcome(transport, delivery)
        try:
            self._note(delivery, error, is_final=is_final)
        except StoreError as failure:
            logger.warning("webhook of key %s will be tried again: %s", delivery.key_id, failure)

    async def _outcome(
        self, transport: httpx2.AsyncHTTPTransport, delivery: Delivery
    ) -> tuple[str | None, bool]:
        """What went wrong, None for nothing; and whether to try no more."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(transport, delivery)
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s", False
        except PrivateTarget as error:
            return str(error), False
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            # Not the error's words: they may hold the URL, and that a token.
            return type(error).__name__, False
        return None if 200 <= status < 300 else f"answered {status}", status == _GONE

    async def _post(self, transport: httpx2.AsyncHTTPTransport, delivery: Delivery) -> int:
        """Send it to the first address that can be reached; returns the status of the answer."""
        url = httpx2.URL(delivery.webhook.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        targets = await addresses(url.host, port, allow_private=self._allow_private)
        for last, address in enumerate(targets, 1 - len(targets)):
            request = httpx2.Request(
                "POST",
                url.copy_with(host=address),
                content=delivery.body.encode(),
                headers=self._headers(delivery) | {"host": url.netloc.decode()},
                extensions={"sni_hostname": url.raw_host.decode(), "timeout": {"connect": _CONNECT_S}},
            )
            try:
                response = await transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if last == 0:
                    raise
            else:
                await response.aclose()
                return response.status_code
        raise OSError("the name has no address")

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        now = int(self._clock())
        signed = signature(delivery.webhook.secret, delivery.id, now, delivery.body.encode())
        return {
            "content-type": "application/json",
            "user-agent": f"rushes/{__version__}",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signed,
        }

    def _note(self, delivery: Delivery, error: str | None, *, is_final: bool) -> None:
        deliveries, now = self._accounts.deliveries, self._clock()
        if error is None:
            deliveries.delivered(delivery, now=now)
            return
        logger.warning(
            "webhook of key %s, job %s, try %d: %s",
            delivery.key_id,
            delivery.job_id,
            delivery.num_tries + 1,
            error,
        )
        if is_final or delivery.num_tries >= len(self._delays_s):
            deliveries.given_up(delivery, error, now=now)
        else:
            wait_s = self._delays_s[delivery.num_tries] * (1 + random.random() * _JITTER)
            deliveries.failed(delivery, error, next_at=now + wait_s)
