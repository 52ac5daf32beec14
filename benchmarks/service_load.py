"""The parts of `benchmarks.service`: what each asks of a gateway, and what it measures of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http_load import Connection, ConnectionGone
from benchmarks.service_processes import Process

SMALL = {
    "prompt": "a dog",
    "width": 64,
    "height": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
    "cache": "off",  # every clip is made
}


@dataclass(slots=True)
class Samples:
    """Seconds by kind, and what was refused."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def add(self, kind: str, seconds: float) -> None:
        self.seconds.setdefault(kind, []).append(seconds)

    def ms(self, kind: str, part: float) -> float:
        """The value in ms below which this part of a kind lies."""
        found = sorted(self.seconds.get(kind, []))
        return round(1000 * found[min(len(found) - 1, int(part * len(found)))], 2) if found else float("nan")

    def summary(self) -> dict[str, Any]:
        return {
            kind: {
                "num": len(found),
                **{f"p{round(100 * p)} ms": self.ms(kind, p) for p in (0.5, 0.95, 0.99)},
                "most ms": self.ms(kind, 1.0),
            }
            for kind, found in self.seconds.items()
        }


class CpuShares:
    """Of one core, what each process used in the block."""

    def __init__(self, **processes: Process) -> None:
        self._processes = processes
        self.shares: dict[str, float] = {}

    def __enter__(self) -> CpuShares:
        self._begin = time.monotonic()
        self._load_s = time.process_time()
        self._cpu_s = {name: process.cpu_s for name, process in self._processes.items()}
        return self

    def __exit__(self, *_: object) -> None:
        wall_s = time.monotonic() - self._begin
        self.shares = {"load tool": round((time.process_time() - self._load_s) / wall_s, 3)}
        for name, process in self._processes.items():
            self.shares[name] = round((process.cpu_s - self._cpu_s[name]) / wall_s, 3)


async def in_turn(rate: float, seconds: float, call: Any) -> None:
    """Begin `call(number)` so many times a second, and wait for all."""
    begin, tasks = time.monotonic(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(call(number)))
    await asyncio.gather(*tasks)


async def one_job(url: str, body: dict[str, Any], samples: Samples) -> None:
    """Four requests: create, watch to the end, look, fetch.

    `overhead` is what the client waits beyond queue and engine: from sending the request until the job stands
    in the store, and from its end in the store until the client has heard of it.
    """
    async with Connection(url) as connection:
        sent = time.time()
        answer = await connection.request("POST", "/v1/videos", body)
        samples.add("create", time.time() - sent)
        if answer.status != 200:
            samples.refused.append(f"{answer.status} {answer.data[:200]!r}")
            return
        path = f"/v1/videos/{answer.json()['id']}"
        begun = sent
        async for arrived, event in connection.events(f"{path}/events"):
            if event["event"] == "queued":
                begun = event["at"]
            elif event["event"] == "completed":
                samples.add("overhead", begun - sent + arrived - event["at"])
        for kind, more in (("status", ""), ("content", "/content")):
            sent = time.time()
            answer = await connection.request("GET", path + more)
            samples.add(kind, time.time() - sent)
            if answer.status != 200:
                samples.refused.append(f"{kind}: {answer.status}")


async def overhead(
    url: str, *, jobs_per_s: float, seconds: float, first_seed: int, changes: Mapping[str, Any] | None = None
) -> Samples:
    """Jobs at a steady rate."""
    samples, body = Samples(), {**SMALL, **(changes or {})}
    await in_turn(
        jobs_per_s, seconds, lambda number: one_job(url, {**body, "seed": first_seed + number}, samples)
    )
    return samples


async def first_fragments(
    url: str, decoded: Path, *, jobs_per_s: float, seconds: float, first_seed: int
) -> Samples:
    """From a job's first frame out of the decoder until the client of its stream has the whole fragment."""
    arrivals: dict[int, float] = {}
    samples = Samples()

    async def play(number: int) -> None:
        seed, held = first_seed + number, bytearray()

        def take(data: bytes) -> None:
            held.extend(data)
            if seed not in arrivals and has_fragment(held):
                arrivals[seed] = time.time()

        async with Connection(url) as connection:
            answer = await connection.request("POST", "/v1/videos", {**SMALL, "num_frames": 17, "seed": seed})
            path = f"/v1/videos/{answer.json()['id']}"
            await connection.request("GET", f"{path}/stream", on_data=take)

    await in_turn(jobs_per_s, seconds, play)
    for line in decoded.read_text().splitlines():
        told = json.loads(line)
        if told["start"] == 0 and told["seed"] in arrivals:
            samples.add("first fragment", arrivals[told["seed"]] - told["at"])
    return samples


def has_fragment(data: bytes | bytearray) -> bool:
    """Whether an mp4 that grows has its first `mdat` box whole."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if kind == b"mdat":
            return at + size <= len(data)
        at += max(8, size)
    return False


async def many_streams(url: str, *, num: int, first_seed: int) -> Samples:
    """So many jobs at once, each watched by its own client from its creation to its end."""
    samples = Samples()
    made: list[str] = []
    async with Connection(url) as connection:
        for number in range(num):
            body = {**SMALL, "num_inference_steps": 4, "seed": first_seed + number, "priority": "batch"}
            answer = await connection.request("POST", "/v1/videos", body)
            if answer.status == 200:
                made.append(answer.json()["id"])
            else:
                samples.refused.append(str(answer.status))
    opened = time.time()

    async def watch(job_id: str) -> None:
        async with Connection(url) as connection:
            async for arrived, event in connection.events(f"/v1/videos/{job_id}/events"):
                # Those from before the stream was open say nothing about delivery.
                if event["number"] and event["at"] > opened + 2.0:
                    samples.add("delivery", arrived - event["at"])

    await asyncio.gather(*(watch(job_id) for job_id in made))
    return samples


async def status_reads(url: str, *, connections: int, seconds: float) -> tuple[float, Samples]:
    """Reads a second of one job's state, each connection asking again as soon as it is answered."""
    samples, until = Samples(), time.monotonic() + seconds
    async with Connection(url) as first:
        answer = await first.request("POST", "/v1/videos", {**SMALL, "seed": 1})
        path = f"/v1/videos/{answer.json()['id']}"

    async def ask() -> None:
        async with Connection(url) as connection:
            while time.monotonic() < until:
                sent = time.monotonic()
                answer = await connection.request("GET", path)
                assert answer.status == 200, answer
                samples.add("status", time.monotonic() - sent)

    await asyncio.gather(*(ask() for _ in range(connections)))
    return len(samples.seconds["status"]) / seconds, samples


def download(url: str, path: str, num: int) -> tuple[float, int]:
    """Fetch a path on so many connections at once; seconds, and bytes of all."""
    parts = urlsplit(url)
    totals = [0] * num

    def fetch(index: int) -> None:
        buffer = bytearray(1 << 20)
        with socket.create_connection((parts.hostname, parts.port)) as found:
            head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
            found.sendall(head.encode())
            while got := found.recv_into(buffer):
                totals[index] += got

    threads = [threading.Thread(target=fetch, args=(index,)) for index in range(num)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begin, sum(totals)


class RssWatch:
    """What memory of a process grew to in the block, looked at every 20 ms, and what it began with."""

    def __init__(self, process: Process) -> None:
        self._process, self._stops = process, threading.Event()
        self.begin_bytes = self.most_bytes = process.rss_bytes
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> RssWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()

    @property
    def growth_mb(self) -> float:
        """Of the most over the beginning."""
        return round((self.most_bytes - self.begin_bytes) / 1e6, 1)

    def _look(self) -> None:
        while not self._stops.wait(0.02):
            self.most_bytes = max(self.most_bytes, self._process.rss_bytes)


async def toy_clips(url: str, bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Clips one after another, each watched and played; the last one's own figures beside the samples."""
    samples = Samples()
    for body in bodies:
        first: list[float] = []

        async with Connection(url) as maker, Connection(url) as player:
            sent = time.time()
            answer = await maker.request("POST", "/v1/videos", body)
            samples.add("create", time.time() - sent)
            path = f"/v1/videos/{answer.json()['id']}"
            held = bytearray()

            def take(data: bytes, held: bytearray = held, first: list[float] = first) -> None:
                held.extend(data)
                if not first and has_fragment(held):
                    first.append(time.time())

            playing = asyncio.create_task(player.request("GET", f"{path}/stream", on_data=take))
            begun, made = sent, None
            async for arrived, event in maker.events(f"{path}/events"):
                if event["event"] == "queued":
                    begun = event["at"]
                elif event["event"] == "frames" and made is None:
                    made = event["at"]
                elif event["event"] == "completed":
                    samples.add("engine and queue", event["at"] - begun)
                    samples.add("overhead", begun - sent + arrived - event["at"])
            with contextlib.suppress(ConnectionGone):
                await playing
            if first:
                samples.add("first fragment after the request", first[0] - sent)
                if made is not None:
                    samples.add("first fragment after its frame was written", first[0] - made)
    return samples.summary()
