"""A worker that is the test: announces itself, leaves snapshots, and ends jobs when it is told to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushes.engine.announcements import Announcement, announce
from rushes.engine.artefacts import result_name
from rushes.engine.cost import CostModel
from rushes.engine.latent_files import finished_name, snapshot_name
from rushes.engine.rates import rates_for
from rushes.engine.shapes import UMT5_XXL, ModelShape
from rushes.engine.workplace import Workplace
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.sampling.levels import schedule_of
from rushes.stores.base import JobRecord, Lease
from rushes.types import Frames

SHAPE = ModelShape(
    transformer=WanConfig(
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        ffn_dim=64,
        text_dim=64,
        text_len=32,
    ),
    vae=WanVAEConfig(base_dim=8, num_res_blocks=1),
    text=UMT5_XXL,
    vae_parameters=10**6,
    value_bytes=4,
)


@dataclass(slots=True, kw_only=True)
class HandWorker:
    """Runs jobs of one workplace by hand.

    Attributes:
        identity: of the model that it says it runs.
        loras: that it says its folder has.
    """

    place: Workplace
    identity: str = "model-1"
    owner: str = "w"
    loras: tuple[str, ...] = ()

    def announce(self) -> None:
        """Be there, for as long as announcements are fresh."""
        word = Announcement(
            owner=self.owner,
            at=time.time(),
            pipeline="toy",
            shape=SHAPE,
            rates=CostModel(rates_for("cpu"), {"toy": SHAPE}).to_json(),
            budget_bytes=2**40,
            reserve_bytes=0,
            identity=self.identity,
            loras=self.loras,
        )
        announce(self.place.workers, word)

    def lease(self) -> tuple[Lease, JobRecord]:
        """The next job."""
        (record,) = self.place.jobs.lease(self.owner, pipelines=["toy"], limit=1, ttl_s=60)
        return Lease(job_id=record.id, owner=self.owner, token=record.token), record

    def complete(
        self,
        steps: Sequence[int] = (),
        *,
        data: bytes = b"clip",
        frames: NDArray[np.uint8] | None = None,
    ) -> JobRecord:
        """Make the next job's clip, leaving snapshots before these steps; with `frames` a real video of them
        with its pictures."""
        lease, record = self.lease()
        sigmas = schedule_of(record.request.sampling).sigmas
        for step in steps:
            name = snapshot_name(record.id, step)
            self.place.latents.write(name, b"latents")
            told: dict[str, Any] = {"step": step, "sigma": sigmas[step], "name": name, "bytes": 7}
            self.place.jobs.append(lease, "snapshot", told)
        if steps:
            self.place.latents.write(finished_name(record.id), b"latents")
        result = result_name(record)
        if frames is None:
            self.place.results.write(result, data)
        else:
            outlet = self.place.outlet(record)
            outlet.write(Frames(start=0, frames=frames))
            result = outlet.finish()
        timings = [{"stage": "denoise", "seconds": 4.0, "units": len(sigmas) - 1}]
        self.place.jobs.finish(
            lease,
            result=result,
            actual_s=5.0,
            data={"timings": timings},
            identity=self.identity,
        )
        return self.place.jobs.get(record.id)
