"""What the service adds to the engine: overhead, first fragment, event streams, reads, downloads.

    python -m benchmarks.service                    # 3 minutes
    python -m benchmarks.service --part status      # one part, nothing stored

A gateway process and a worker process over a real store on `--folder`'s disk. The worker's stages sleep
(`benchmarks.sleeping_worker`); all else is the production contract. At the end the same with the toy at its
own rate. The load tool is this process: its CPU share, and those of gateway and worker, are in the report.
Definitions are in docs/service.md, "Measured". Exits with 1 when a goal falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.service_load import (
    SMALL,
    CpuShares,
    RssWatch,
    download,
    first_fragments,
    many_streams,
    overhead,
    status_reads,
    toy_clips,
)
from benchmarks.service_processes import Service

from rushes.engine.workplace import Workplace
from rushes.pipelines.rules import load_rules, resolve
from rushes.stores.base import Lease
from rushes.types import JobOptions

OUT = Path("benchmarks/results/service_cpu.json")
PACE = ("--text-s", "0.001", "--step-s", "0.005", "--decode-s", "0.005")
CONTENT_BYTES = 512 * 2**20
DOWNLOADS = 4
TOY = {
    "prompt": "a red dog running in the park",
    "width": 128,
    "height": 96,
    "num_frames": 17,
    "cache": "off",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure and its bar: at most, or at least."""

    title: str
    part: str
    key: str
    bar: float
    unit: str
    sense: Literal["at most", "at least"] = "at most"

    def is_met(self, value: float) -> bool:
        return value <= self.bar if self.sense == "at most" else value >= self.bar


GOALS = (
    Goal(title="overhead p99", part="overhead", key="overhead p99 ms", bar=20.0, unit="ms"),
    Goal(title="first fragment p95", part="fragment", key="p95 ms", bar=50.0, unit="ms"),
    Goal(title="delivery to 200 streams p95", part="streams", key="p95 ms", bar=100.0, unit="ms"),
    Goal(title="status reads", part="status", key="reads a second", bar=500.0, unit="/s", sense="at least"),
    Goal(title="content", part="content", key="MB a second", bar=300.0, unit="MB/s", sense="at least"),
    Goal(title="memory while serving it", part="content", key="growth MB", bar=32.0, unit="MB"),
)


class Bench:
    """A running service and the parts that are measured of it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.gateway, self.url = service.start_gateway()
        self.worker = service.start_worker()
        asyncio.run(overhead(self.url, jobs_per_s=4, seconds=2, first_seed=10**6))  # modules, caches

    def overhead(self) -> dict[str, Any]:
        """50 requests a second: 12.5 jobs of four calls each."""
        with self._cpu() as cpu:
            samples = asyncio.run(overhead(self.url, jobs_per_s=12.5, seconds=40, first_seed=0))
        assert not samples.refused, samples.refused[:3]
        return {
            "requests a second": 50,
            "overhead p99 ms": samples.ms("overhead", 0.99),
            "overhead p50 ms": samples.ms("overhead", 0.5),
            "by kind": samples.summary(),
            "CPU of one core": cpu.shares,
        }

    def fragment(self) -> dict[str, Any]:
        """Clips that are played while they are made."""
        decoded = self.service.folder / "decoded.jsonl"
        with self._cpu() as cpu:
            samples = asyncio.run(
                first_fragments(self.url, decoded, jobs_per_s=4, seconds=20, first_seed=2 * 10**6)
            )
        return {
            **{f"p{p} ms": samples.ms("first fragment", p / 100) for p in (50, 95, 99)},
            "most ms": samples.ms("first fragment", 1.0),
            "num": len(samples.seconds["first fragment"]),
            "CPU of one core": cpu.shares,
        }

    def streams(self) -> dict[str, Any]:
        """200 jobs, 200 clients."""
        with self._cpu() as cpu:
            samples = asyncio.run(many_streams(self.url, num=200, first_seed=3 * 10**6))
        assert not samples.refused, samples.refused[:3]
        return {
            **{f"p{p} ms": samples.ms("delivery", p / 100) for p in (50, 95, 99)},
            "most ms": samples.ms("delivery", 1.0),
            "events": len(samples.seconds["delivery"]),
            "CPU of one core": cpu.shares,
        }

    def status(self) -> dict[str, Any]:
        """Reads as fast as 8 clients ask."""
        with self._cpu() as cpu:
            rate, samples = asyncio.run(status_reads(self.url, connections=8, seconds=10))
        return {
            "reads a second": round(rate),
            "connections": 8,
            "by kind": samples.summary(),
            "CPU of one core": cpu.shares,
        }

    def content(self) -> dict[str, Any]:
        """A large result on several connections at once, twice; the first fills the server's buffers."""
        path = f"/v1/videos/{large_result(self.service.store)}/content"
        download(self.url, path, DOWNLOADS)
        with self._cpu() as cpu, RssWatch(self.gateway) as rss:
            seconds, num_bytes = download(self.url, path, DOWNLOADS)
        assert num_bytes >= DOWNLOADS * CONTENT_BYTES, f"only {num_bytes} bytes came"
        return {
            "MB a second": round(num_bytes / seconds / 1e6),
            "MB": round(num_bytes / 1e6),
            "connections": DOWNLOADS,
            "growth MB": rss.growth_mb,
            "CPU of one core": cpu.shares,
        }

    def burst(self) -> dict[str, Any]:
        """50 jobs a second, each with four calls: no goal, since one worker's writes bound it."""
        body = {"num_frames": 1, "num_inference_steps": 1}
        with self._cpu() as cpu:
            samples = asyncio.run(
                overhead(self.url, jobs_per_s=50, seconds=10, first_seed=4 * 10**6, changes=body)
            )
        return {"jobs a second": 50, "by kind": samples.summary(), "CPU of one core": cpu.shares}

    def _cpu(self) -> CpuShares:
        return CpuShares(gateway=self.gateway, worker=self.worker)


def large_result(store: Path) -> str:
    """A completed job whose video is `CONTENT_BYTES` long, by the store's own means; its id."""
    request = resolve(
        load_rules("toy"),
        "large",
        **{name: SMALL[name] for name in ("width", "height", "num_frames")},
        seed=5,
    )
    with Workplace(store) as place:
        # A lane and pipeline that the worker asks for too: take it before it does, else try again.
        while True:
            record = place.jobs.create(request, JobOptions(lane="interactive"))
            taken = place.jobs.lease("bench", pipelines=("toy",), limit=1, ttl_s=60.0)
            if taken and taken[0].id == record.id:
                break
        name = f"{record.id}-{taken[0].token}.mp4"
        with place.results.growing(name) as path, path.open("wb") as file:
            block = secrets.token_bytes(2**20)
            for _ in range(CONTENT_BYTES // len(block)):
                file.write(block)
        lease = Lease(job_id=record.id, owner="bench", token=taken[0].token)
        place.jobs.finish(lease, result=name, actual_s=1.0)
    return record.id


def toy(folder: Path, num: int = 4) -> dict[str, Any]:
    """The toy itself, one clip after another."""
    with Service(folder) as service:
        gateway, url = service.start_gateway()
        worker = service.start_worker()
        bodies = [{**TOY, "num_inference_steps": 6, "seed": number} for number in range(num)]
        asyncio.run(toy_clips(url, bodies[:1]))
        with CpuShares(gateway=gateway, worker=worker) as cpu:
            figures = asyncio.run(toy_clips(url, bodies))
    return {"clip": {**TOY, "num_inference_steps": 6}, "by kind": figures, "CPU of one core": cpu.shares}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "overhead": Bench.overhead,
    "fragment": Bench.fragment,
    "streams": Bench.streams,
    "status": Bench.status,
    "content": Bench.content,
    "burst": Bench.burst,
}


def fsync_ms(folder: Path) -> float:
    """Of a small write, the median of 50: what a durable write of the store costs at least."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            begin = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    return round(1000 * sorted(times)[25], 2)


def measure(folder: Path, names: list[str]) -> dict[str, Any]:
    """Every part that is asked for."""
    parts: dict[str, Any] = {}
    pace = (*PACE, "--decoded", str(folder / "decoded.jsonl"))
    with Service(folder, worker=("--max-batch", "1"), pace=pace) as service:
        bench = Bench(service) if set(names) & set(PARTS) else None
        for name in names:
            if name in PARTS and bench is not None:
                print(f"{name} ...", flush=True)
                parts[name] = PARTS[name](bench)
                print(f"  {json.dumps(parts[name])}", flush=True)
    if "toy" in names:
        print("toy ...", flush=True)
        parts["toy"] = toy(folder / "toy")
        print(f"  {json.dumps(parts['toy'])}", flush=True)
    return parts


def verdicts(parts: dict[str, Any]) -> tuple[list[str], int]:
    """A word for each goal that was measured, and how many fall short."""
    said, short = [], 0
    for goal in GOALS:
        if goal.part not in parts:
            continue
        value = parts[goal.part][goal.key]
        short += not goal.is_met(value)
        mark = "" if goal.is_met(value) else ", SHORT"
        said.append(f"{goal.title} {value:g} {goal.unit} ({goal.sense} {goal.bar:g}{mark})")
    return said, short


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=(*PARTS, "toy"), action="append", help="may be repeated")
    parser.add_argument("--folder", type=Path, help="made and removed; its disk carries the store")
    parser.add_argument("--out", type=Path, help=f"JSON  [default: {OUT}, when every part is measured]")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="rushes-service-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        about = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "fsync ms": fsync_ms(folder),
            "load average before": round(os.getloadavg()[0], 2),
        }
        parts = measure(folder, args.part or [*PARTS, "toy"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out = args.out or (None if args.part else OUT)
    if out is not None:
        out.write_text(json.dumps({"about": about, "parts": parts}, indent=1) + "\n")
    said, short = verdicts(parts)
    half = (len(said) + 1) // 2
    print(f"{'; '.join(said[:half])}; load average before {about['load average before']}")
    print(f"{'; '.join(said[half:])}; {short} of {len(said)} goals fall short")
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
