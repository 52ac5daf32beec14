"""A unit that some runs take together: what it needs, how it is run, and what it failed with."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rushes.engine.run import Run
from rushes.engine.scheduler import Batch
from rushes.engine.slots import Slot
from rushes.engine.spans import job_ids
from rushes.errors import OutOfMemory, RushesError, StageError
from rushes.pipelines.base import unit_span
from rushes.stages.base import BatchKey, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A unit that is running.

    Attributes:
        began_at: by the runner's clock; None while weights are being loaded for it.
        predicted_s: what was expected of it.
    """

    job_ids: tuple[str, ...]
    stage: str
    predicted_s: float
    began_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Runs of one key that take a unit together.

    Attributes:
        batch: the scheduler's, None where it was not asked.
    """

    runs: Sequence[Run]
    stage: Stage
    key: BatchKey
    predicted_s: float
    batch: Batch | None = None

    def in_flight(self) -> InFlight:
        """As the watchdog sees it, before it begins."""
        return InFlight(
            job_ids=tuple(run.id for run in self.runs), stage=self.stage.name, predicted_s=self.predicted_s
        )

    def prepare(self) -> Exception | None:
        """Load what the unit needs, outside of its time; what that failed with."""
        try:
            for run in self.runs:
                self.stage.prepare(run.job)
        except Exception as error:  # a damaged checkpoint, no memory for the weights
            return without_frames(error)
        return None

    def run(self, slot: Slot) -> Exception | None:
        """One unit of each run; what it failed with. Raises when the device answers nobody any more."""
        jobs = [run.job for run in self.runs]
        # Kept until the device is done: what a job lets go while its unit is queued was made on another
        # stream, say, and would be given away before this one has read it.
        held = [(job.denoise, job.text, list(job.latents)) for job in jobs]
        try:
            # The span is around the slot's wait for the device, which belongs to the unit.
            unit = slot.unit(runs_ahead=self.stage.runs_ahead)
            with unit_span(self.stage, jobs, jobs=job_ids(self.runs)), unit:
                self.stage.run(jobs)
        except Exception as error:  # the border to the networks: whatever it is, it is these jobs' affair
            if _is_fatal(error):
                raise
            return without_frames(error)
        finally:
            del held
        return None


def without_frames(error: Exception) -> Exception:
    """The same error without the tracebacks of it and what it came of, whose frames would hold tensors."""
    left: list[BaseException] = [error]
    for each in left:
        each.__traceback__ = None
        left += [of for of in (each.__cause__, each.__context__) if of is not None and of not in left]
    return error


def final_error(stage: Stage, error: Exception) -> Exception:
    """The error that a run ends with."""
    if isinstance(error, RushesError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"{stage.name}: no memory even alone on the device: {error}")
    return StageError(f"{stage.name}: unexpected {type(error).__name__}: {error}")


def is_memory(error: Exception) -> bool:
    """Whether the device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError)


def release_memory() -> None:
    """Give what the allocator keeps back to the device, after it ran out."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and not is_memory(error) and "CUDA error" in str(error)
