"""Kill workers with SIGKILL at every point of a job's life, and show that no job is lost or made twice.

    python -m benchmarks.chaos               # 50 rounds
    python -m benchmarks.chaos --rounds 12

A round submits a job, kills the worker at a chosen point (a random moment of a unit, half a fragment of the
video or half a checkpoint written, before or after the commit), lets the standby take over, and compares: one
result, the bytes of an undisturbed run, at most the steps of one checkpoint interval made again.
Exits with 1 when any round fails.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos_worker import CHECKPOINT_EVERY, POINTS

from rushes.engine.client import StoreClient, result
from rushes.engine.workplace import Workplace
from rushes.pipelines.rules import load_rules, resolve
from rushes.types import GenerateRequest, JobOptions

READY_S = 300.0
ROUND_S = 120.0
POLL_S = 0.02
STEPS = 7
SIZE = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": STEPS, "seed": 7}
MOST_PASSES = {
    "text_encode": 1,
    "denoise": 7,
    "vae_decode": 3,
    "video_encode": 3,
    "checkpoint": 3,
    "commit": 1,
    "committed": 1,
}
"""Every variant passes each point so often at least."""

VARIANTS = (
    {"solver": "unipc"},
    {"solver": "dpmpp-2m"},
    {"solver": "ddim", "mode": "causal", "num_inference_steps": 3},
    {"solver": "euler"},
    {"solver": "lcm"},
)


@dataclass(slots=True)
class Process:
    """A worker process and what it has said."""

    popen: subprocess.Popen[str]
    said: queue.Queue[str] = field(default_factory=queue.Queue)
    listener: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self._listen, daemon=True)

    @classmethod
    def start(cls, folder: Path) -> Process:
        command = [sys.executable, "-m", "benchmarks.chaos_worker", "--store", str(folder)]
        process = cls(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        )
        process.listener.start()
        return process

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.said.put(line.strip())

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def wait_for(self, words: str, timeout_s: float) -> bool:
        """Whether it says so in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self.said.get(timeout=left) == words:
                    return True
            except queue.Empty:
                break
        return False

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        self.listener.join()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was told to a dead one
                pipe.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a round.

    Attributes:
        steps_again: solver steps that were told of twice.
        steps_kept: steps that the checkpoint held when the job was taken up again.
    """

    point: str
    variant: int
    problem: str | None
    steps_again: int
    steps_kept: int
    seconds: float

    def __str__(self) -> str:
        steps = f"{self.steps_kept} steps kept, {self.steps_again} again"
        end = self.problem or "ok"
        return f"{self.point:<12} variant {self.variant}: {steps}, {self.seconds:5.1f} s, {end}"


class Chaos:
    """A store, a worker at work and one that stands by."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._place = Workplace(folder)
        self._client = StoreClient(self._place.jobs, watch=self)
        self._deadline = time.monotonic() + 10 * ROUND_S
        self._standby = Process.start(folder)
        self._active = self._relieve()
        self._expected = [self._digest(self._submit(variant)) for variant in range(len(VARIANTS))]

    def close(self) -> None:
        """End both processes."""
        for process in (self._active, self._standby):
            process.kill()
        self._place.jobs.close()

    def round(self, point: str, variant: int) -> Outcome:
        """One kill."""
        begin = time.monotonic()
        self._deadline = begin + ROUND_S
        number = self._chance.randint(1, MOST_PASSES[point])
        self._active.tell(f"arm {point} {number}")
        time.sleep(0.05)
        job_id = self._submit(variant)
        if not self._active.wait_for(f"reached {point}", ROUND_S):
            return self._outcome(point, variant, self._why_unreached(job_id), begin)
        time.sleep(self._chance.random() * 0.05)
        self._active.kill()
        self._active = self._relieve()
        problem = self._check(job_id, variant)
        again = self._steps_again(job_id, variant)
        if problem is None and again > CHECKPOINT_EVERY:
            problem = f"{again} steps were made again, more than {CHECKPOINT_EVERY}"
        return self._outcome(point, variant, problem, begin, again=again, kept=self._steps_kept(job_id))

    def mark(self) -> int:
        """See `rushes.engine.client.Watch`."""
        return 0

    def wait(self, mark: int) -> None:
        """See `rushes.engine.client.Watch`."""
        if time.monotonic() > self._deadline:
            raise TimeoutError("the job never ended")
        time.sleep(POLL_S)

    def _why_unreached(self, job_id: str) -> str:
        """What the store knows of the job; where its worker stands, that says itself if it is there."""
        with suppress(BrokenPipeError):
            self._active.tell("threads")
        record = self._place.jobs.get(job_id)
        life = f"{record.status}, token {record.token}, {record.deaths} deaths, error {record.error}"
        kinds = [event.kind for event in self._place.jobs.events(job_id)]
        return f"the point was never reached; the job is {life}; told: {kinds}"

    @staticmethod
    def _outcome(
        point: str, variant: int, problem: str | None, begin: float, *, again: int = 0, kept: int = 0
    ) -> Outcome:
        seconds = time.monotonic() - begin
        return Outcome(
            point=point,
            variant=variant,
            problem=problem,
            steps_again=again,
            steps_kept=kept,
            seconds=seconds,
        )

    def _steps_kept(self, job_id: str) -> int:
        """Steps that the job had behind it when it was taken up again."""
        return max(
            (e.data["steps"] for e in self._place.jobs.events(job_id) if e.kind == "resumed"), default=0
        )

    def _relieve(self) -> Process:
        """Let the standby work, and start another."""
        process, self._standby = self._standby, Process.start(self._folder)
        assert process.wait_for("ready", READY_S), "no worker came up"
        process.tell("go")
        assert process.wait_for("going", READY_S)
        return process

    def _submit(self, variant: int) -> str:
        return self._client.submit(request(variant), JobOptions(lane="batch"))

    def _check(self, job_id: str, variant: int) -> str | None:
        """What is wrong with a job, None for nothing."""
        try:
            digest = self._digest(job_id)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        ends = [
            e.kind for e in self._place.jobs.events(job_id) if e.kind in ("completed", "failed", "cancelled")
        ]
        if ends != ["completed"]:
            return f"ended as {ends}"
        return None if digest == self._expected[variant] else "other bytes than an undisturbed run"

    def _digest(self, job_id: str) -> str:
        record = result(self._client, job_id)
        assert record.result is not None
        return hashlib.sha256(self._place.results.read(record.result)).hexdigest()

    def _steps_again(self, job_id: str, variant: int) -> int:
        """Solver steps that were made more than once and told, over all lives of the job."""
        events = self._place.jobs.events(job_id)
        made = sum(e.kind == "progress" and e.data["stage"] == "denoise" for e in events)
        asked = request(variant)
        frames = 1 + (asked.video.num_frames - 1) // 4 if asked.mode == "causal" else 1
        return made - asked.sampling.num_inference_steps * frames


def request(variant: int) -> GenerateRequest:
    """A small clip, one for each solver and mode."""
    return resolve(load_rules("toy"), "a red dog spins on the beach", **{**SIZE, **VARIANTS[variant]})


def run(rounds: int, seed: int) -> list[Outcome]:
    """Every point in turn, every variant in turn."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="rushes-chaos-") as folder:
        chaos = Chaos(Path(folder), seed)
        try:
            for number in range(rounds):
                point, variant = POINTS[number % len(POINTS)], number % len(VARIANTS)
                outcome = chaos.round(point, variant)
                outcomes.append(outcome)
                print(f"{number + 1:>3} {outcome}", flush=True)
        finally:
            chaos.close()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the rounds as JSON")
    args = parser.parse_args()
    outcomes = run(args.rounds, args.seed)
    if args.out:
        rows = [{name: getattr(o, name) for name in Outcome.__slots__} for o in outcomes]
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    kills = collections.Counter(outcome.point for outcome in outcomes)
    failed = sum(outcome.problem is not None for outcome in outcomes)
    resumed = sum(outcome.steps_kept > 0 for outcome in outcomes)
    print(f"{resumed} jobs went on from a checkpoint")
    print("kills: " + ", ".join(f"{point} {kills[point]}" for point in POINTS))
    again = max(outcome.steps_again for outcome in outcomes)
    bound = CHECKPOINT_EVERY
    print(f"{len(outcomes)} rounds, {failed} failed; at most {again} steps made again (bound {bound})")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
