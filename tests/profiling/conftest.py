"""Profiles of tiny models that several tests read: each is made once."""

from __future__ import annotations

import pytest

from rushes.profiling.clip import Ask
from rushes.profiling.session import Options, Session
from rushes.profiling.subject import profile_model
from tiny_parts import ROUTED, TinyParts, tiny_model


@pytest.fixture(scope="session")
def dense() -> Session:
    """A tiny model with Python lines."""
    options = Options(repeats=3, ceiling_s=0.001, stacks=True)
    return profile_model(tiny_model(), Ask(prompt="a dog"), options)


@pytest.fixture(scope="session")
def routed() -> Session:
    """The same with token experts, in a short run."""
    options = Options(repeats=1, ceiling_s=0.001, is_short=True)
    net = tiny_model(TinyParts(transformer=ROUTED))
    return profile_model(net, Ask(prompt="a dog", fields={"num_inference_steps": 7}), options)
