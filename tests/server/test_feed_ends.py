"""A reader that comes back to a job that is over is let go, wherever it says that it stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from running_gateways import SMALL

from rushes.engine.workplace import Workplace
from rushes.server.asks import ask_of
from rushes.server.feed import Feed


async def numbers(feed: Feed, job_id: str, after: int) -> list[int]:
    async with asyncio.timeout(5):
        return [event.number async for event in feed.events(job_id, after=after)]


@pytest.mark.parametrize(("after", "left"), [(0, [1, 2]), (1, [2]), (2, []), (3, []), (10**9, [])])
def test_an_ended_job(tmp_path: Path, after: int, left: list[int]) -> None:
    with Workplace(tmp_path) as place:
        record = place.jobs.create(*ask_of(SMALL, models=("toy",), tenant="one"))
        place.jobs.cancel(record.id)
        feed = Feed(place.jobs)
        feed.start()
        try:
            assert asyncio.run(numbers(feed, record.id, after)) == left
        finally:
            feed.stop()


def test_a_number_beyond_the_last_misses_no_end(tmp_path: Path) -> None:
    with Workplace(tmp_path) as place:
        record = place.jobs.create(*ask_of(SMALL, models=("toy",), tenant="one"))
        feed = Feed(place.jobs)
        feed.start()

        async def watched() -> list[int]:
            reader = asyncio.create_task(numbers(feed, record.id, 10**9))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(place.jobs.cancel, record.id)
            return await reader

        try:
            assert asyncio.run(watched()) == [2]
        finally:
            feed.stop()
