"""Ten minutes of a service at 0.8 of its load, with random cancels, dropped clients and kills of everything.

    python -m benchmarks.soak                 # 10 minutes
    python -m benchmarks.soak --seconds 40    # a short one, without the goals that need the time

Two gateways and two workers (`benchmarks.sleeping_worker`) share one store. One of each lives through it: its
memory must not grow. The others are killed (SIGKILL) and started again, in turn. Clients create videos at
random moments, at either gateway, come again where they were when it dies, play or drop their streams, and
cancel some. At the end every accepted job has exactly one result or one stated failure, its events are whole
and equal requests have equal bytes. Exits with 1 when a goal falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http_load import Connection, ConnectionGone
from benchmarks.service_processes import Process, Service

from rushes.engine.workplace import Workplace
from rushes.stores.base import JobRecord
from rushes.types import FINAL

OUT = Path("benchmarks/results/soak_cpu.json")
PACE = ("--text-s", "0.01", "--step-s", "0.35", "--decode-s", "0.2")
BODY = {"prompt": "a dog", "width": 64, "height": 64, "num_inference_steps": 8}
SEEDS = 5
"""So many different clips; the rest are repetitions, whose bytes must be the same."""

LENGTHS = (9, 17, 33)
LOAD = 0.8
DRAIN_S = 120.0
CANCELLED, DROPPED = 0.15, 0.25
"""Parts of the clients that cancel their job, and that drop their stream in mid-way and come again."""

SHARED = 0.1
"""Part of the clients that take the clip of an equal request, or wait for it to be made."""

KILL_EVERY_S = 45.0
LEASE_S = 3.0
WARM_S = 120.0
"""After which memory may not grow."""

RSS_GOAL, JOBS_GOAL, KILLS_GOAL = 1.0, 40, 5


@dataclass(slots=True)
class Seen:
    """What clients and killers have seen.

    Attributes:
        accepted: ids of jobs for which a client got a 200, by the clip that was asked for.
        problems: anything that must not be.
    """

    accepted: dict[str, tuple[int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rss: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


class Soak:
    """A service and those who torment it."""

    def __init__(self, service: Service, seconds: float, seed: int) -> None:
        self._service, self._seconds = service, seconds
        self._chance = random.Random(seed)
        self._seen = Seen()
        (self._steady_gateway, first), (self._gateway, second) = (
            service.start_gateway(),
            service.start_gateway(),
        )
        self._urls = (first, second)
        self._steady_worker, self._worker = service.start_worker(), service.start_worker()
        self._begin = time.monotonic()

    async def run(self) -> Seen:
        """Everything at once, until the time is over and every client has its answer."""
        killer = asyncio.create_task(self._kill())
        watcher = asyncio.create_task(self._watch_memory())
        clients = []
        mean_s = statistics.mean(engine_s(length) for length in LENGTHS)
        while self._age_s < self._seconds:
            await asyncio.sleep(self._chance.expovariate(LOAD * 2 / mean_s))
            clients.append(asyncio.create_task(self._client(len(clients))))
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*clients)
        killer.cancel()
        watcher.cancel()
        return self._seen

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._begin

    async def _client(self, number: int) -> None:
        """One user: asks, watches to the end whatever happens to the gateway, and fetches."""
        clip = (self._chance.randrange(SEEDS), self._chance.choice(LENGTHS))
        cache = "exact" if self._chance.random() < SHARED else "off"
        body = {**BODY, "seed": clip[0], "num_frames": clip[1], "cache": cache}
        job_id = await self._create(number, body)
        if job_id is None:
            return
        self._seen.accepted[job_id] = clip
        if self._chance.random() < CANCELLED:
            await asyncio.sleep(self._chance.random() * 4)
            self._seen.counts["cancels"] += 1
            await self._asked("POST", f"/v1/videos/{job_id}/cancel")
        player = asyncio.create_task(self._play(job_id))
        numbers = await self._watch(job_id)
        if numbers != list(range(1, len(numbers) + 1)):
            self._seen.problems.append(f"{job_id}: events {numbers}")
        await player

    async def _create(self, number: int, body: dict[str, Any]) -> str | None:
        """Comes again with the same key when the gateway dies under it."""
        headers = {"Idempotency-Key": f"soak-{number}"}
        answer = await self._asked("POST", "/v1/videos", body, headers)
        if answer.status == 429:
            self._seen.counts["refused"] += 1
            return None
        if answer.status != 200:
            self._seen.problems.append(f"create: {answer.status} {answer.data[:200]!r}")
            return None
        job_id: str = answer.json()["id"]
        return job_id

    async def _asked(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Any:
        """The answer of whichever gateway gives one."""
        while True:
            try:
                async with Connection(self._chance.choice(self._urls)) as connection:
                    answer = await connection.request(method, path, body, headers=headers)
            except ConnectionGone:
                self._seen.counts["connections lost"] += 1
                await asyncio.sleep(0.2)
                continue
            if answer.status != 503:
                return answer
            await asyncio.sleep(0.5)

    async def _watch(self, job_id: str) -> list[int]:
        """Numbers of the events, each as often as it came."""
        numbers: list[int] = []
        while True:
            drops_after = self._chance.randrange(2, 12) if self._chance.random() < DROPPED else 10**6
            headers = {"Last-Event-ID": str(numbers[-1] if numbers else 0)}
            try:
                async with Connection(self._chance.choice(self._urls)) as connection:
                    async for _, event in connection.events(f"/v1/videos/{job_id}/events", headers):
                        if event["number"]:
                            numbers.append(event["number"])
                            if event["event"] in FINAL:
                                return numbers
                        drops_after -= 1
                        if not drops_after:
                            self._seen.counts["dropped event streams"] += 1
                            break
            except ConnectionGone:
                self._seen.counts["connections lost"] += 1
                await asyncio.sleep(0.2)

    async def _play(self, job_id: str) -> None:
        """The video while it is made; some go away in mid-way, some of them for good."""
        deadline = self._chance.random() * 6 if self._chance.random() < DROPPED else None
        try:
            async with asyncio.timeout(deadline), Connection(self._chance.choice(self._urls)) as connection:
                await connection.request("GET", f"/v1/videos/{job_id}/stream", on_data=lambda data: None)
                self._seen.counts["streams played"] += 1
        except (ConnectionGone, TimeoutError):
            self._seen.counts["dropped streams"] += 1

    async def _kill(self) -> None:
        """A gateway, a worker, a gateway, ... each started again at once."""
        port = urlsplit(self._urls[1]).port or 0
        pause_s = min(KILL_EVERY_S, self._seconds / 5)
        while True:
            await asyncio.sleep(pause_s * (0.5 + self._chance.random()))
            self._gateway.kill()
            self._seen.counts["kills of the gateway"] += 1
            self._gateway, _ = await asyncio.to_thread(self._service.start_gateway, port)
            await asyncio.sleep(self._chance.random() * 3)
            self._worker.kill()
            self._seen.counts["kills of the worker"] += 1
            self._worker = await asyncio.to_thread(self._service.start_worker)

    async def _watch_memory(self) -> None:
        while True:
            for name, process in (("gateway", self._steady_gateway), ("worker", self._steady_worker)):
                self._note_memory(name, process)
            await asyncio.sleep(1.0)

    def _note_memory(self, name: str, process: Process) -> None:
        if not process.is_alive:
            self._seen.problems.append(f"the {name} that nobody killed ended: {process.log}")
            return
        self._seen.rss.setdefault(name, []).append((self._age_s, process.rss_bytes / 1e6))


def engine_s(num_frames: int) -> float:
    """Seconds that a clip of so many frames sleeps."""
    pace = dict(zip(PACE[::2], map(float, PACE[1::2]), strict=True))
    latents = (num_frames - 1) // 4 + 1
    return (
        pace["--text-s"] + BODY["num_inference_steps"] * pace["--step-s"] + latents * pace["--decode-s"]  # type: ignore[operator]
    )


def slope_mb_a_minute(samples: Sequence[tuple[float, float]], after_s: float) -> float | None:
    """Of a line through what was seen later than `after_s`; None where that is less than a minute."""
    found = [sample for sample in samples if sample[0] >= after_s]
    if len(found) < 2 or found[-1][0] - found[0][0] < 60.0:
        return None
    return 60 * statistics.linear_regression(*zip(*found, strict=True)).slope


def audit(store: Path, seen: Seen) -> dict[str, int]:
    """What became of every accepted job; adds what must not be to the problems."""
    ends: Counter[str] = Counter()
    digests: dict[tuple[int, int], set[str]] = {}
    with Workplace(store) as place:
        for job_id, clip in seen.accepted.items():
            record = place.jobs.get(job_id)
            ends[record.status] += 1
            problem = _problem(place, record)
            if problem is not None:
                seen.problems.append(f"{job_id}: {problem}")
            elif record.result is not None:
                digest = hashlib.sha256(place.results.read(record.result)).hexdigest()
                digests.setdefault(clip, set()).add(digest)
        num = place.jobs.count()
        if num != len(seen.accepted):
            seen.problems.append(f"{num} jobs in the store, {len(seen.accepted)} accepted")
    for clip, found in digests.items():
        if len(found) > 1:
            seen.problems.append(f"clip {clip} came out in {len(found)} ways")
    return dict(ends)


def _problem(place: Workplace, record: JobRecord) -> str | None:
    kinds = [event.kind for event in place.jobs.events(record.id)]
    if record.status not in FINAL or [kind for kind in kinds if kind in FINAL] != [record.status]:
        return f"is {record.status} with the events {kinds}"
    if record.status == "failed":
        return f"failed: {record.error}"
    if (record.status == "completed") != (record.result is not None):
        return f"is {record.status} with the result {record.result}"
    return None


def report(seen: Seen, ends: dict[str, int], seconds: float, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Figures, and the goals that fall short; those that need ten minutes count for a whole run only."""
    is_whole = seconds >= 600
    slopes = {name: slope_mb_a_minute(samples, WARM_S) for name, samples in seen.rss.items()}
    short = list(seen.problems)
    for name, slope in slopes.items():
        if slope is not None and slope > RSS_GOAL:
            short.append(f"memory of the {name} grows by {slope:.2f} MB a minute")
    if is_whole and len(seen.accepted) < JOBS_GOAL:
        short.append(f"only {len(seen.accepted)} jobs")
    for name in ("gateway", "worker"):
        if is_whole and seen.counts[f"kills of the {name}"] < KILLS_GOAL:
            short.append(f"only {seen.counts[f'kills of the {name}']} kills of the {name}")
    figures = {
        "seconds": seconds,
        "seed": seed,
        "jobs": len(seen.accepted),
        "ends": ends,
        "counts": dict(sorted(seen.counts.items())),
        "MB a minute after minute 2": {name: slope and round(slope, 3) for name, slope in slopes.items()},
        "MB every half minute": {
            name: [round(megabytes) for _, megabytes in samples[::30]] for name, samples in seen.rss.items()
        },
        "problems": short,
    }
    return figures, short


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help=f"JSON  [default: {OUT}, of a run of ten minutes]")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rushes-soak-"))
    flags = ("--max-batch", "1", "--lease", f"{LEASE_S:g}", "--checkpoint-every", "2", "--max-active", "2")
    try:
        with Service(folder, worker=flags, pace=PACE) as service:
            seen = asyncio.run(Soak(service, args.seconds, args.seed).run())
        ends = audit(folder / "store", seen)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures, short = report(seen, ends, args.seconds, args.seed)
    out = args.out or (OUT if args.seconds >= 600 else None)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    for problem in short[:20]:
        print(problem)
    kills = "+".join(str(seen.counts[f"kills of the {name}"]) for name in ("gateway", "worker"))
    print(f"{len(seen.accepted)} jobs: {ends}; kills of gateway+worker {kills}; {dict(seen.counts)}")
    print(f"MB a minute {figures['MB a minute after minute 2']}; {len(short)} problems")
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
