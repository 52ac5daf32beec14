"""Ranges of a whole model for the pass `int8-linears`: both noise experts, over clips as they are served."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rushes.errors import ConfigError
from rushes.passes.calibration import Calibration, calibrate
from rushes.pipelines.model import Model

Say = Callable[[str], None]

HIGH, LOW = 1000.0, 0.0
"""Timesteps that each noise expert is chosen by."""


def calibrate_model(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_buckets: int,
    say: Say = lambda line: None,
    **fields: Any,
) -> dict[str, Calibration]:
    """What the transformers' linear layers meet while the clips are denoised, by `network_key`.

    Args:
        model: loaded without passes that change them.
        prompts, seeds: of the clips, one of each; at least one.
        num_buckets: timestep buckets, each with ranges of its own.
        say: told of every clip.
        fields: of the requests.

    Raises:
        InvalidRequest: a field or a prompt breaks a rule of the model; before any clip is made.
        ConfigError: there is no prompt, or not a seed for each; or a noise expert ran in none of the clips.
    """
    if not prompts or len(prompts) != len(seeds):
        raise ConfigError(
            f"calibration: needs a prompt and a seed of each clip, got {len(prompts)} and {len(seeds)}"
        )
    pairs = list(zip(prompts, seeds, strict=True))
    loras = {model.job(prompt, **{**fields, "seed": seed}).request.sampling.lora for prompt, seed in pairs}
    assert len(loras) == 1, "the clips differ in prompt and seed alone"
    experts = model.parts.experts(loras.pop())
    networks = [experts.select(timestep) for timestep in (HIGH, LOW)]

    def run() -> None:
        for number, (prompt, seed) in enumerate(pairs, 1):
            begin = time.perf_counter()
            model.generate(prompt, output="latents", **{**fields, "seed": seed})
            say(f"clip {number} of {len(pairs)}, {time.perf_counter() - begin:.1f} s: {prompt}")

    found = calibrate(networks, run, num_buckets=num_buckets)
    num_networks = 1 if model.boundary is None else 2
    if len(found) < num_networks:
        raise ConfigError(
            f"calibration: {len(found)} of {num_networks} noise experts ran in these clips; take more steps"
        )
    return found
