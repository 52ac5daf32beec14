"""What a unit made, on its way out of the runner: timings, previews, frames, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from rushes.engine.run import Run
from rushes.errors import OutputError, StoreError
from rushes.pipelines.base import record_unit
from rushes.pipelines.model import Model
from rushes.stages.base import Stage
from rushes.stages.source import Snapshot, final_on_host, on_host
from rushes.trace import span, under
from rushes.types import Frames, Preview, Progress

if TYPE_CHECKING:
    from torch import Tensor


PATIENCE_S = 0.05
"""What was told waits no longer for what is told behind it."""


class Listener(Protocol):
    """Who is told what happens to runs. Calls about one run come in order, from its courier's thread (`saved`
    from a slot's); an error that one raises ends that run, or takes a `completed` result back.

    What is told may be kept back until `flushed`, `completed` or `ended`, one of which follows soon: a write
    to the store costs as much for one event as for five."""

    def progressed(self, run: Run, progress: Progress) -> None:
        """One more unit is done."""

    def previewed(self, run: Run, preview: Preview) -> None:
        """The clip as the last step predicts it."""

    def kept(self, run: Run, snapshot: Snapshot) -> None:
        """The latents of the clip before one of its steps, on the host."""

    def kept_final(self, run: Run, latents: Tensor) -> None:
        """What the clip is decoded from, on the host, of a run whose snapshots are kept."""

    def delivered(self, run: Run, frames: Frames) -> None:
        """The outlet has taken these frames."""

    def flushed(self, run: Run) -> None:
        """Nothing else of the run waits to be told."""

    def saved(self, run: Run) -> None:
        """A good moment for a checkpoint: no unit of the run is running, none begins before this returns."""

    def completed(self, run: Run, result: str) -> None:
        """All is delivered, under this name."""

    def ended(self, run: Run, error: Exception) -> None:
        """The run ended without a result, and its memory is free. Must not raise."""


class Delivery:
    """Brings what units make to a listener and the runs' outlets.

    Args:
        model: makes previews.
        checkpoint_every: solver steps between two calls of `Listener.saved`; 0 for none.
    """

    def __init__(self, model: Model, listener: Listener, checkpoint_every: int) -> None:
        self._model, self._listener, self._checkpoint_every = model, listener, checkpoint_every

    def report(self, run: Run, stage: Stage, seconds: float) -> None:
        """One unit of a run is done, in so many seconds of its own. Raises what a preview or a checkpoint
        meets."""
        run.device_s += seconds
        progress = record_unit(run.job, stage, seconds)
        self._tell(run, partial(self._listener.progressed, run, progress))
        self._send_preview(run, progress)
        self._send_snapshots(run)
        self._send_final(run, stage)
        self.send_frames(run)
        if self._is_due(run, stage, progress):
            with under(run.span):
                self._listener.saved(run)

    def send_frames(self, run: Run) -> None:
        """Hand what is decoded to the run's courier."""
        while run.job.frames:
            self._tell(run, partial(self._deliver, run, run.job.frames.popleft()))

    def finish(self, run: Run) -> None:
        """On the courier's thread, behind the last frames: complete the result, or take it back and raise."""
        try:
            with _outlet_errors():
                result = run.outlet.finish()
            self._listener.completed(run, result)
        except BaseException:
            run.outlet.abort()
            raise
        run.outlet.committed()

    def _send_preview(self, run: Run, progress: Progress) -> None:
        predicted, run.job.predicted = run.job.predicted, None
        if predicted is None or progress.units % run.options.preview_every:
            return
        with under(run.span):
            preview = self._model.preview(predicted, progress)
        self._tell(run, partial(self._listener.previewed, run, preview))

    def _send_snapshots(self, run: Run) -> None:
        """Copied here, where the device's work is in order; written by the courier: nobody waits for it."""
        while run.job.snapshots:
            with under(run.span), span("snapshot"):
                snapshot = on_host(run.job.snapshots.pop(0))
            self._tell(run, partial(self._listener.kept, run, snapshot))

    def _send_final(self, run: Run, stage: Stage) -> None:
        """With the unit that ends denoising."""
        if stage.name != "denoise" or not run.job.snapshot_steps or not run.job.is_denoised:
            return
        with under(run.span), span("snapshot"):
            latents = final_on_host(run.job.latents)
        self._tell(run, partial(self._listener.kept_final, run, latents))

    def _tell(self, run: Run, tell: Callable[[], None]) -> None:
        run.send(partial(self._told, run, tell))

    def _told(self, run: Run, tell: Callable[[], None]) -> None:
        tell()
        now = perf_counter()
        run.untold_since = min(run.untold_since, now)
        if run.courier.is_last or now - run.untold_since > PATIENCE_S:
            self._flush(run)

    def _flush(self, run: Run) -> None:
        self._listener.flushed(run)
        run.untold_since = inf

    def _deliver(self, run: Run, frames: Frames) -> None:
        if run.write_s > PATIENCE_S:
            self._flush(run)
        begin = perf_counter()
        with _outlet_errors():
            run.outlet.write(frames)
        run.write_s = perf_counter() - begin
        self._listener.delivered(run, frames)
        run.num_delivered = max(run.num_delivered, frames.start + len(frames.frames))

    def _is_due(self, run: Run, stage: Stage, progress: Progress) -> bool:
        """Whether to save: every few solver steps, and when a latent frame or the whole clip is denoised."""
        if not self._checkpoint_every or stage.name != "denoise":
            return False
        return progress.units % self._checkpoint_every == 0 or run.job.num_waiting > 0


@contextmanager
def _outlet_errors() -> Iterator[None]:
    """A place that cannot be written to is the job's failure; the store of jobs may be well."""
    try:
        yield
    except StoreError as error:
        raise OutputError(str(error)) from error
