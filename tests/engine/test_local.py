"""The engine within one process: what it keeps of jobs."""

from __future__ import annotations

import weakref

from rushes.engine.client import result
from rushes.engine.local import LocalEngine
from tiny_parts import request, tiny_model


class Frames(list):
    """Takes frames; can be referred to weakly."""

    def __call__(self, frames) -> None:
        self.append(frames)


def test_what_took_the_frames_of_a_job_goes_after_it() -> None:
    taken = []
    with LocalEngine(tiny_model()) as engine:
        for seed in range(3):
            frames = Frames()
            taken.append(weakref.ref(frames))
            result(engine, engine.submit(request(seed=seed), on_frames=frames))
            assert sum(len(each.frames) for each in frames) == request().video.num_frames
            del frames
        assert [each() is None for each in taken] == [True, True, False]
