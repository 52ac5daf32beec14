"""Threads of a gateway outlive a damaged row and a bug, and `/ready` tells of one that is gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running_service import SMALL

from rushes.engine.workplace import Workplace
from rushes.server.asks import ask_of
from rushes.server.ends import Ends
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.limits import Limits
from rushes.server.routes_health import readiness
from rushes.server.service import Service
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.base import JobRecord
from rushes.types import JobEvent, JobOptions

REQUEST = ask_of({"prompt": "a dog", **SMALL}, models=("toy",), tenant="default")[0]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_feed_leaves_a_damaged_event_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    with Workplace(tmp_path / "store") as place:
        feed = Feed(place.jobs, on_event=[lambda event: heard.append(event.job_id)])
        feed.start()
        first = place.jobs.create(REQUEST, JobOptions()).id
        other = sqlite3.connect(tmp_path / "store" / "jobs.sqlite")
        with other:
            other.execute(
                "INSERT INTO events (job_id, number, kind, at, data) VALUES (?, 2, 'progress', 0.0, '{')",
                (first,),
            )
        other.close()
        last = place.jobs.create(REQUEST, JobOptions()).id
        until(lambda: last in heard)
        assert heard == [first, last]
        assert "cannot read what follows" in caplog.text
        assert not feed.has_died
        feed.stop()


def test_a_bug_with_one_end_ends_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    accounts = AccountStore(":memory:")
    key, _ = accounts.keys.create("k", limits=KeyLimits(concurrent_jobs=9))

    def on_end(record: JobRecord) -> None:
        if record.id == ids[0]:
            raise ZeroDivisionError

    limits = Limits(accounts, on_end=on_end)
    with Workplace(tmp_path / "store") as place, Ends(place.jobs, limits) as ends:
        ids = [place.jobs.create(REQUEST, JobOptions()).id for _ in range(2)]
        for job_id in ids:
            reservation = accounts.charges.reserve(
                key_id=key.id,
                tenant=key.tenant,
                job_key=job_id,
                predicted_s=1.0,
                limits=key.limits,
                now=time.time(),
            )
            limits.bind(reservation, job_id)
            place.jobs.cancel(job_id)
            ends.hear(JobEvent(job_id=job_id, number=2, kind="cancelled", at=0.0, data={}))
        until(lambda: list(accounts.charges.open_jobs()) == ids[:1])
        assert not ends.has_died
        assert ids[0] in caplog.text
        service = Service(gateway=Gateway(place, Feed(place.jobs), models=("toy",)), ends=ends)
        assert "the thread of ends" not in readiness(service)["missing"]
        ends.__exit__()
        assert "the thread of ends" in readiness(service)["missing"]
    limits.close()
    accounts.close()
