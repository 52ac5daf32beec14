"""A gateway in this process behind a real socket, whose worker is the test."""

from __future__ import annotations

import threading
import time
from typing import Any

import uvicorn

from rushes.engine.artefacts import result_name
from rushes.engine.workplace import Workplace
from rushes.server.app import create_app
from rushes.server.auth import Authenticator
from rushes.server.batch_runner import batching_over
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.limits import Limits
from rushes.server.service import Service
from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore
from rushes.stores.base import JobRecord, Lease


class LocalService:
    """A context manager; can be stopped and started again on the same port.

    Args:
        has_auth: keys of `accounts` are asked for.
    """

    def __init__(self, place: Workplace, *, has_auth: bool = False) -> None:
        self.place, self._has_auth = place, has_auth
        self.accounts = AccountStore(place.folder / ACCOUNTS_FILE)
        self.limits = Limits(self.accounts)
        self._port = 0
        self._server: uvicorn.Server | None = None

    def __enter__(self) -> LocalService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.limits.close()
        self.accounts.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        place, accounts = self.place, self.accounts
        limits = self.limits if self._has_auth else None
        gateway = Gateway(place, Feed(place.jobs), models=("toy",), limits=limits)
        parts: dict[str, Any] = {"accounts": accounts, "batching": batching_over(gateway, accounts)}
        if self._has_auth:
            parts |= {"authenticator": Authenticator(accounts), "limits": limits}
        config = uvicorn.Config(
            create_app(Service(gateway=gateway, **parts)),
            host="127.0.0.1",
            port=self._port,
            log_config=None,
            timeout_graceful_shutdown=1,
            lifespan="on",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        """End it, with its connections."""
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None


def lease(place: Workplace) -> tuple[Lease, JobRecord]:
    """The next job, for this process as its worker."""
    (record,) = place.jobs.lease("w", pipelines=["toy"], limit=1, ttl_s=60)
    return Lease(job_id=record.id, owner="w", token=record.token), record


def complete(place: Workplace, data: bytes = b"clip") -> str:
    """Make the next job's clip; returns its id."""
    held, record = lease(place)
    place.results.write(result_name(record), data)
    place.jobs.finish(held, result=result_name(record), actual_s=1.5)
    return record.id
