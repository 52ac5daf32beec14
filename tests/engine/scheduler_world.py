"""Jobs and a device for tests of the scheduler: seconds pass only when units run."""

from dataclasses import dataclass, field

from rushes.engine.scheduler import Policy, Scheduler, Ticket
from rushes.stages.base import BatchKey


def key(stage="denoise", shape=(16, 21, 60, 104), **fields):
    return BatchKey(stage=stage, pipeline="toy", latent_shape=shape, **fields)


TEXT = key("text_encode", None)
DECODE = key("vae_decode")
DENOISE = key("denoise")


def clip(num_steps=4, step_s=3.0, num_latents=5, decode_s=0.1, text_s=0.05):
    """The units of a job: (key, seconds) each."""
    return [(TEXT, text_s), *[(DENOISE, step_s)] * num_steps, *[(DECODE, decode_s)] * num_latents]


def alone(key, unit_s, num_jobs):
    """A device that batches do not help."""
    return num_jobs * unit_s


def shared(key, unit_s, num_jobs):
    """A device that takes 30 % of a unit for every further one of a batch."""
    return unit_s * (1 + 0.3 * (num_jobs - 1))


@dataclass
class World:
    """One device; `log` holds (start, job ids, stage) of every batch."""

    policy: Policy = field(default_factory=Policy)
    batch_seconds: object = alone
    now: float = 0.0

    def __post_init__(self):
        self.scheduler = Scheduler(self.policy, self.batch_seconds)
        self.units, self.total, self.tenants, self.ended = {}, {}, {}, {}
        self.log, self.served = [], {}

    def arrive(self, name, units, *, lane="batch", tenant="a", deadline_at=None, at=None):
        self.units[name], self.total[name], self.tenants[name] = list(units), len(units), (lane, tenant)
        self.scheduler.add(
            Ticket(
                job_id=name,
                lane=lane,
                tenant=tenant,
                arrived_at=self.now if at is None else at,
                deadline_at=deadline_at,
                key=units[0][0],
                unit_s=units[0][1],
                remaining_s=sum(seconds for _, seconds in units),
            )
        )

    def begin(self, stages=None):
        """The next batch and its seconds; its jobs' units are counted when it ends."""
        batch = self.scheduler.next(self.now, stages)
        if batch is None:
            return None
        units = [self.units[name][0] for name in batch.job_ids]
        assert {unit[0] for unit in units} == {batch.key}
        mean_s = sum(unit[1] for unit in units) / len(units)
        return batch, self.batch_seconds(batch.key, mean_s, len(units))

    def end(self, batch, seconds):
        self.log.append((self.now, batch.job_ids, batch.key.stage))
        self.now += seconds
        self.scheduler.done(batch, seconds)
        alive = [name for name in batch.job_ids if name in self.scheduler]
        for name in batch.job_ids:
            owner = self.tenants[name]
            self.served[owner] = self.served.get(owner, 0.0) + seconds / len(batch.job_ids)
        for name in alive:
            self._advance(name)

    def _advance(self, name):
        units = self.units[name]
        units.pop(0)
        if units:
            self.scheduler.update(
                name, key=units[0][0], unit_s=units[0][1], remaining_s=sum(seconds for _, seconds in units)
            )
        else:
            self.ended[name] = self.now
            self.scheduler.remove(name)

    def step(self, stages=None):
        """One batch from begin to end; None when nothing runs."""
        begun = self.begin(stages)
        if begun is not None:
            self.end(*begun)
        return begun

    def run(self, until=float("inf")):
        """Until all is done, or so many seconds have passed."""
        while self.now < until and self.step():
            pass
        return self

    def picked(self, stage=None):
        """First jobs of the batches so far."""
        return [names[0] for _, names, of in self.log if stage in (None, of)]
