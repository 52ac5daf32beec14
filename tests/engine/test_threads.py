"""A slot's first unit adds up in the order of every other one."""

import threading

import numpy as np
import torch
from test_worker import alone

from rushes.engine.client import result
from rushes.engine.local import LocalEngine
from rushes.types import JobOptions
from tiny_parts import request, tiny_model


def test_the_first_clip_of_a_new_thread_is_the_clip_of_the_main_one() -> None:
    """torch.set_num_threads holds for the thread that calls it; a slot is another."""
    asked, frames = request(frames=9), []
    assert threading.current_thread() is threading.main_thread()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in range(4):
            asked = request(frames=9, seed=seed)
            with LocalEngine(tiny_model()) as engine:
                frames.clear()
                job_id = engine.submit(asked, JobOptions(), on_frames=lambda each: frames.append(each.frames))
                result(engine, job_id)
            assert np.array_equal(np.concatenate(frames), alone(tiny_model(), asked))
    finally:
        torch.set_num_threads(before)
