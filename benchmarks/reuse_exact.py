"""How many equal requests a second get the clip that is there, each with a durable job record of its own.

    python -m benchmarks.reuse_exact

Once by the gateway's own call on 8 threads, as its edges make it, and once over HTTP by 8 connections with a
client process of its own. Every answer must be a completed job of the store afterwards. Exits with 1 when the
goal falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.http_load import Connection
from benchmarks.service import fsync_ms
from benchmarks.service_load import SMALL
from benchmarks.service_processes import Service

from rushes.engine.workplace import Workplace
from rushes.server.auth import LOCAL
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway

OUT = Path("benchmarks/results/reuse_exact.json")
LEAST = 500
CALLERS, SECONDS = 8, 8.0
BODY = {**SMALL, "seed": 3, "cache": "on"}


def call_in_process(store: Path, seconds: float) -> tuple[int, float]:
    """Hits of one gateway object on `CALLERS` threads, and the seconds that they took."""
    with Workplace(store) as place:
        gateway = Gateway(place, Feed(place.jobs))
        request, options = gateway.ask(BODY, tenant=LOCAL.tenant)
        begin = time.monotonic()

        def create() -> int:
            num = 0
            while time.monotonic() < begin + seconds:
                record = gateway.create(request, options, LOCAL)
                assert record.status == "completed", record.status
                num += 1
            return num

        with ThreadPoolExecutor(CALLERS) as pool:
            num = sum(each.result() for each in [pool.submit(create) for _ in range(CALLERS)])
        return num, time.monotonic() - begin


def call_over_http(url: str, seconds: float) -> tuple[int, float]:
    """Hits of `CALLERS` connections, and the seconds that they took."""

    async def create() -> int:
        num = 0
        async with Connection(url) as connection:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                answer = await connection.request("POST", "/v1/videos", BODY)
                assert answer.status == 200, answer
                assert answer.json()["cache"]["kind"] == "exact", answer.data
                num += 1
        return num

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(create() for _ in range(CALLERS))))

    begin = time.monotonic()
    num = asyncio.run(all_of_them())
    return num, time.monotonic() - begin


async def first_clip(url: str) -> None:
    """Make the clip that all others take."""
    async with Connection(url) as connection:
        answer = await connection.request("POST", "/v1/videos", BODY)
        async for _ in connection.events(f"/v1/videos/{answer.json()['id']}/events"):
            pass


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Both rates, and whether every answer left its record."""
    with Service(folder, pace=()) as service:
        _, url = service.start_gateway()
        service.start_worker()  # which idles from then on
        asyncio.run(first_clip(url))
        with multiprocessing.get_context("spawn").Pool(1) as client:
            over_http, over_http_s = client.apply(call_over_http, (url, seconds))
        in_process, in_process_s = call_in_process(service.store, seconds)
        with Workplace(service.store) as place:
            num_records = place.jobs.count(statuses=("completed",))
    assert num_records == 1 + over_http + in_process, (num_records, over_http, in_process)
    return {
        "hits a second": {
            "the gateway's call": round(in_process / in_process_s),
            "over HTTP": round(over_http / over_http_s),
        },
        "callers": CALLERS,
        "records": num_records,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each way")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rushes-exact-") as folder:
        about = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "fsync ms": fsync_ms(Path(folder)),
            "load average before": round(os.getloadavg()[0], 2),
        }
        found = measure(Path(folder), args.seconds)
    args.out.write_text(json.dumps({"about": about, **found}, indent=1) + "\n")
    print(json.dumps({"about": about, **found}))
    rate = found["hits a second"]["the gateway's call"]
    print(
        f"exact hits {rate}/s (at least {LEAST}{'' if rate >= LEAST else ', SHORT'}), over HTTP "
        f"{found['hits a second']['over HTTP']}/s"
    )
    return int(rate < LEAST)


if __name__ == "__main__":
    sys.exit(main())
