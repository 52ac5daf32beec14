"""The loop that takes one job through its stages, and when it waits for the device."""

from itertools import pairwise

import pytest

from rushes.pipelines.base import run
from tiny_parts import tiny_model


class Recording:
    """A pipeline whose waits for the device are written down."""

    def __init__(self, pipeline, log):
        self.pipeline, self.log = pipeline, log

    def current(self, job):
        return self.pipeline.current(job)

    def synchronize(self):
        self.log.append("wait")


@pytest.mark.parametrize(("mode", "num_turns"), [("full", 3), ("causal", 7)])
def test_it_waits_for_the_device_exactly_when_another_stage_comes_next(mode, num_turns):
    model, log, stages = tiny_model(), [], []
    for progress in run(Recording(model.pipeline, log), model.job("a dog", mode=mode)):
        stages.append(progress.stage)
        log.append(progress.stage)
    expected = []
    for stage, following in pairwise([*stages, None]):
        expected += ["wait", stage] if stage != following else [stage]
    assert log == expected
    # The text, then denoising and decoding: once, or once for each of three latent frames.
    assert log.count("wait") == num_turns
