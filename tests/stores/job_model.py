"""A job store as one would tell it: plain Python, the oracle of the random test."""

from __future__ import annotations

from dataclasses import dataclass, field

from rushes.stores.base import MAX_DEATHS, Lease

ENDED = ("completed", "failed", "cancelled")


@dataclass
class ModelJob:
    id: str
    number: int
    is_interactive: bool
    seed: int
    status: str = "queued"
    owner: str = ""
    token: int = 0
    until: float = 0.0
    ttl_s: float = 0.0
    deaths: int = 0
    checkpoint: str | None = None
    result: str | None = None
    wants_cancel: bool = False
    finished_at: float = 0.0
    needs: int | None = None
    kinds: list[str] = field(default_factory=lambda: ["queued"])

    def end(self, status: str, now: float) -> None:
        self.status, self.finished_at, self.wants_cancel = status, now, False
        self.kinds.append(status)

    def is_held_by(self, lease: Lease) -> bool:
        return self.status == "running" and (self.owner, self.token) == (lease.owner, lease.token)

    def has_run_out(self, now: float) -> bool:
        return self.status == "running" and self.until <= now


class JobModel:
    """Jobs by id, and the jobs that keys stand for with the seed that was asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.keys: dict[str, tuple[str, int]] = {}
        self.num_created = 0

    def add(self, job_id: str, is_interactive: bool, seed: int, key: str | None, needs: int | None) -> None:
        self.jobs[job_id] = ModelJob(job_id, self.num_created, is_interactive, seed, needs=needs)
        self.num_created += 1
        if key is not None:
            self.keys[key] = (job_id, seed)

    def held(self, lease: Lease) -> ModelJob | None:
        job = self.jobs.get(lease.job_id)
        return job if job and job.is_held_by(lease) else None

    def lease(
        self, owner: str, limit: int, now: float, ttl_s: float, most: int | None
    ) -> list[tuple[str, int]]:
        """Ids and tokens in order."""
        for job in self.jobs.values():
            job.until = min(job.until, now + job.ttl_s)
        taken: list[tuple[str, int]] = []
        for job in sorted(self.jobs.values(), key=lambda job: (not job.is_interactive, job.number)):
            is_ours = most is None or job.needs is None or job.needs <= most
            if len(taken) < limit and is_ours and self._take(job, owner, now, ttl_s):
                taken.append((job.id, job.token))
        return taken

    def _take(self, job: ModelJob, owner: str, now: float, ttl_s: float) -> bool:
        if job.has_run_out(now):
            job.deaths += 1
            if job.wants_cancel:
                job.end("cancelled", now)
            elif job.deaths == MAX_DEATHS:
                job.end("failed", now)
        elif job.status != "queued":
            return False
        if job.status in ENDED:
            return False
        job.status, job.owner, job.token = "running", owner, job.token + 1
        job.until, job.ttl_s = now + ttl_s, ttl_s
        return True

    def cancel(self, job: ModelJob, now: float) -> None:
        if job.status == "queued" or job.has_run_out(now):
            job.end("cancelled", now)
        elif job.status == "running":
            job.wants_cancel = True

    def release(self, job: ModelJob, now: float) -> None:
        if job.wants_cancel:
            job.end("cancelled", now)
        else:
            job.status = "queued"

    def sweep(self, ttl_s: float, max_jobs: int, now: float) -> tuple[list[str], list[str]]:
        """Checkpoints and results to be deleted."""
        ended = sorted(
            (job for job in self.jobs.values() if job.status in ENDED),
            key=lambda job: (job.finished_at, job.number),
        )
        checkpoints = [job.checkpoint for job in ended if job.checkpoint]
        for job in ended:
            job.checkpoint = None
        newest = ended[max(0, len(ended) - max_jobs) :]
        gone = [job for job in ended if job not in newest or job.finished_at <= now - ttl_s]
        for job in gone:
            del self.jobs[job.id]
        self.keys = {key: found for key, found in self.keys.items() if found[0] in self.jobs}
        return checkpoints, [job.result for job in gone if job.result]
