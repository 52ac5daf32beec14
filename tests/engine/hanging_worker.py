"""A worker process whose denoiser hangs at its third step, for as long as nobody ends the process."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from engine_parts import FAST, make_place, stage_of

from tiny_parts import tiny_model


def main() -> None:
    folder = Path(sys.argv[1])
    model = tiny_model()
    denoise = stage_of(model, "denoise")
    run, steps = denoise.run, []

    def hangs(jobs):
        steps.append(1)
        if len(steps) == 3:
            time.sleep(3600)
        run(jobs)

    denoise.run = hangs
    policy = replace(FAST, lease_s=1.0, hang_floor_s=0.5)
    place = make_place(folder / "blobs", database=folder / "jobs.sqlite", policy=policy, model=model)
    place.worker.start()
    time.sleep(60)


if __name__ == "__main__":
    main()
