"""A worker for `benchmarks.chaos`: tells where it is, and waits there to be killed. Driven by lines on stdin.

    arm POINT N   say "reached POINT" when it is passed for the n-th time from now, and wait there (at a
                  stage, where the kill falls into the unit: go on)
    go            begin to take jobs; until then the process stands by, its model loaded
    threads       write to stderr where every thread stands

Its store and folders are the production ones; the wrappers below only add the points.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import secrets
import sys
import threading
import time
from pathlib import Path

import rushes
from rushes.engine.planner import planner_for
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.worker import Worker, WorkerPolicy
from rushes.engine.workplace import Mp4Outlet, Workplace

POINTS = ("text_encode", "denoise", "vae_decode", "video_encode", "checkpoint", "commit", "committed")
LEASE_S = 1.5
CHECKPOINT_EVERY = 2
WAIT_S = 20.0


class Points:
    """Which point is armed; passing it tells the parent and waits."""

    def __init__(self) -> None:
        self._armed: str | None = None
        self._left = 0

    def arm(self, point: str, number: int) -> None:
        """That pass of `point` is told."""
        self._armed, self._left = point, number

    def passed(self, point: str, *, waits: bool) -> None:
        """Call at a point; `waits` stays there for the end."""
        if self._armed != point:
            return
        self._left -= 1
        if self._left > 0:
            return
        self._armed = None
        print(f"reached {point}", flush=True)
        if waits:
            time.sleep(WAIT_S)


class KillableBlobs:
    """Checkpoints that are half written when the end comes."""

    def __init__(self, blobs, points: Points) -> None:
        self._blobs, self._points = blobs, points
        self.read, self.delete = blobs.read, blobs.delete

    def write(self, name: str, data: bytes) -> None:
        if name.endswith(".safetensors"):
            # As `BlobFolder` leaves it when its process dies in the middle.
            half = self._blobs.path(name).with_name(f".{name}.{secrets.token_hex(8)}.tmp")
            half.write_bytes(data[: len(data) // 2])
            self._points.passed("checkpoint", waits=True)
            # Nobody's lock is on it: a process that opens the folder now takes it for a dead one's.
            half.unlink(missing_ok=True)
        self._blobs.write(name, data)


class TornFile:
    """A clip's file to which half a fragment was written when the end comes."""

    def __init__(self, file, points: Points) -> None:
        self._file, self._points = file, points

    def write(self, data: bytes) -> None:
        half = len(data) // 2
        self._file.write(data[:half])
        self._points.passed("video_encode", waits=True)
        self._file.write(data[half:])


class KillableOutlet(Mp4Outlet):
    """The production one, its encoder writing to a file that may be torn."""

    def __init__(self, results, record, points: Points) -> None:
        super().__init__(results, record)
        self._points = points

    def _sink(self, file):
        return TornFile(file, self._points)


class KillableStore:
    """A store whose last word may not be said, or not be heard."""

    def __init__(self, store, points: Points) -> None:
        self._store, self._points = store, points

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def finish(self, *args, **fields) -> None:
        self._points.passed("commit", waits=True)
        self._store.finish(*args, **fields)
        self._points.passed("committed", waits=True)


def watch_stages(model, points: Points) -> None:
    """Tell when a unit of a stage begins."""
    pipeline = model.pipeline
    for stage in {id(s): s for s in (*pipeline._whole, *pipeline._causal)}.values():
        run = stage.run

        def told(jobs, *, run=run, name=stage.name):
            points.passed(name, waits=False)
            run(jobs)

        stage.run = told


def listen(points: Points, begin: threading.Event) -> None:
    """Do what the parent says until it is gone."""
    for line in sys.stdin:
        words = line.split()
        if words[0] == "arm":
            points.arm(words[1], int(words[2]))
        elif words[0] == "go":
            begin.set()
        elif words[0] == "threads":
            faulthandler.dump_traceback()
    os._exit(0)  # a process that stands by would wait for ever


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    args = parser.parse_args()
    points, begin = Points(), threading.Event()
    with Workplace(args.store) as place:
        model = rushes.load("toy")
        watch_stages(model, points)
        planner = planner_for(model)
        worker = Worker(
            model,
            KillableStore(place.jobs, points),
            KillableBlobs(place.checkpoints, points),
            lambda record: KillableOutlet(place.results, record, points),
            Scheduler(Policy(max_batch=1), planner.batch_seconds),
            planner,
            policy=WorkerPolicy(lease_s=LEASE_S, checkpoint_every=CHECKPOINT_EVERY),
        )
        print("ready", flush=True)
        listener = threading.Thread(target=listen, args=(points, begin), daemon=True)
        listener.start()
        begin.wait()
        worker.start()
        print("going", flush=True)
        listener.join()


if __name__ == "__main__":
    main()
