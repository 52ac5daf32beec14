"""`rushes worker`: run what others submit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rushes.cli.observe import Observing, observed, observing_options
from rushes.cli.options import device_options, model_option
from rushes.cli.plans import plan_of_file, plan_option
from rushes.cli.snapshots import snapshot_options
from rushes.cli.workplace import keep_gb_option, service_options, store_option

if TYPE_CHECKING:
    from rushes.engine.housekeeping import Housekeeping
    from rushes.engine.outlets import Outlet
    from rushes.engine.planner import CostPlanner
    from rushes.engine.worker import Worker, WorkerPolicy
    from rushes.engine.workplace import Workplace
    from rushes.pipelines.model import Model
    from rushes.server.redaction import Redactor
    from rushes.stores.base import JobRecord
    from rushes.stores.kv import KVStore


@click.command(short_help="Run submitted jobs, until Ctrl-C or SIGTERM.")
@store_option
@model_option
@device_options
@plan_option
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="solver steps between two checkpoints: the most that a death of this process costs a job",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="jobs in one forward; 1 makes every clip bit for bit as if it were alone",
)
@click.option(
    "--max-active", type=click.IntRange(1), default=8, show_default=True, help="jobs held at a time"
)
@click.option(
    "--lease",
    "lease_s",
    type=click.FloatRange(1.0),
    default=10.0,
    show_default=True,
    help="seconds of silence after which other workers take over",
)
@click.option(
    "--reserve",
    "reserve_gb",
    type=click.FloatRange(0.0),
    default=2.0,
    show_default=True,
    help="GB of the device's memory that are always kept free",
)
@click.option(
    "--keep-days", type=click.FloatRange(0.0), default=7.0, show_default=True, help="how long ended jobs stay"
)
@keep_gb_option
@snapshot_options
@service_options
@observing_options
def worker(
    store: Path,
    name: str,
    device: str | None,
    dtype: str | None,
    plan_file: Path | None,
    checkpoint_every: int,
    max_batch: int,
    max_active: int,
    lease_s: float,
    reserve_gb: float,
    keep_days: float,
    keep_gb: float,
    snapshots: tuple[float, ...],
    snapshots_gb: float,
    observing: Observing,
    **services: str | None,
) -> None:
    """Take jobs from a store and run them on one device. Several workers may share a store.

    Ctrl-C or SIGTERM: the steps in work are finished, every job is saved and goes back to the queue.
    """
    import rushes
    from rushes.engine.announcements import withdraw
    from rushes.engine.host_heap import limit_arenas
    from rushes.engine.worker import WorkerPolicy, owner_name
    from rushes.engine.workplace import Workplace

    limit_arenas()
    redactor = observing.configure_logs()
    stops = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stops.set())
    kv = shared_cache(services["redis"], services["memcached"])
    with (
        Workplace.of_services(
            store, s3=services["s3"], public_url=services["public_url"], redis=services["redis"]
        ) as place,
        ExitStack() as stack,
    ):
        model = rushes.load(name, device=device, dtype=dtype, plan=plan_file)
        planner = calibrated(model, max_batch=max_batch, reserve_gb=reserve_gb)
        share_embeddings(model, kv)
        owner = owner_name()
        metrics_url = stack.enter_context(observed(observing, place, owner, model, planner))
        runs = worker_over(
            place,
            model,
            planner,
            owner=owner,
            max_batch=max_batch,
            policy=WorkerPolicy(max_active=max_active, checkpoint_every=checkpoint_every, lease_s=lease_s),
            snapshots=snapshots,
            redactor=redactor,
            metrics_url=metrics_url,
        )
        with housekeeping(place, keep_days=keep_days, keep_gb=keep_gb, snapshots_gb=snapshots_gb):
            runs.start()
            click.echo(f"rushes: worker {runs.owner} runs {model.rules.name} on {model.device}", err=True)
            tell_defaults(plan_file, model.rules.name)
            wait_and_drain(runs, stops)
        withdraw(place.workers, runs.owner)


def calibrated(model: Model, *, max_batch: int, reserve_gb: float) -> CostPlanner:
    """What knows of the device's room and time, after a first short clip."""
    from rushes.engine.peaks import CudaMeter
    from rushes.engine.planner import calibrate, planner_for

    meter = CudaMeter(model.device) if model.device.type == "cuda" else None
    planner = planner_for(model, max_batch=max_batch, reserve_bytes=int(reserve_gb * 1e9), meter=meter)
    calibrate(planner, model)
    return planner


def worker_over(
    place: Workplace,
    model: Model,
    planner: CostPlanner,
    *,
    owner: str,
    max_batch: int,
    policy: WorkerPolicy,
    snapshots: Sequence[float],
    redactor: Redactor,
    metrics_url: str | None,
) -> Worker:
    """The engine's worker over a store's folders."""
    from rushes.engine.announcements import Elsewhere, announce
    from rushes.engine.latent_shelf import LatentShelf
    from rushes.engine.scheduler import Policy, Scheduler
    from rushes.engine.worker import Worker

    def serve(who: str) -> None:
        announce(place.workers, replace(planner.announcement(who), metrics_url=metrics_url))

    def outlet(record: JobRecord) -> Outlet:
        redactor.conceal(record.request.prompt, record.request.negative_prompt)
        return place.outlet(record)

    return Worker(
        model,
        place.jobs,
        place.checkpoints,
        outlet,
        Scheduler(Policy(max_batch=max_batch), planner.batch_seconds),
        planner,
        policy=policy,
        owner=owner,
        most_elsewhere=Elsewhere(place.workers, model.rules.name, owner),
        announce=serve,
        on_preview=place.keep_preview,
        shelf=LatentShelf(place.latents, model, snapshots, place.first_frames),
        bell=place.bell,
    )


def housekeeping(place: Workplace, *, keep_days: float, keep_gb: float, snapshots_gb: float) -> Housekeeping:
    """What sweeps the store while a worker runs."""
    from rushes.engine.housekeeping import Housekeeping

    return Housekeeping(
        place,
        ttl_s=86_400 * keep_days,
        max_bytes=int(1e9 * keep_gb),
        max_latent_bytes=int(1e9 * snapshots_gb),
    )


def shared_cache(redis: str | None, memcached: str | None) -> KVStore | None:
    """Where workers share encoded texts: Memcached where there is one, else Redis, else nowhere."""
    if memcached is not None:
        from rushes.stores.kv_memcached import MemcachedKV

        return MemcachedKV(memcached)
    if redis is not None:
        from rushes.stores.kv_redis import RedisKV

        return RedisKV(redis)
    return None


def share_embeddings(model: Model, kv: KVStore | None) -> None:
    """Look for encoded texts there, and leave them there."""
    from rushes.stages.shared_embeddings import SharedEmbeddings

    model.pipeline.embeddings.shared = None if kv is None else SharedEmbeddings(kv, model.device)


def tell_defaults(plan_file: Path | None, model: str) -> None:
    """Say which request defaults of a plan a worker cannot give: requests are complete when submitted."""
    fields = plan_of_file(plan_file, model).fields
    if fields:
        names = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        click.echo(
            f"rushes: note: only rushes submit --plan {plan_file} gives jobs the plan's defaults: {names}",
            err=True,
        )


def wait_and_drain(worker: Worker, stops: threading.Event) -> None:
    """Until somebody stops it. Raises `EngineError` when it was a bug of ours."""
    from rushes.errors import EngineError

    while not stops.wait(0.2) and not worker.failed.is_set():
        pass
    held = len(worker.runs)
    click.echo("rushes: saving jobs ...", err=True)
    worker.drain()
    click.echo(f"rushes: {held} {'job' if held == 1 else 'jobs'} saved and back in the queue", err=True)
    if worker.failed.is_set():
        raise EngineError("the worker stopped by a bug of its own; its log says where, its jobs are queued")
