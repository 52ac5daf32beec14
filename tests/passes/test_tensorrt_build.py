"""The contract of a TensorRT build: profiles fit the graph's inputs, keys part what must not be mixed."""

from __future__ import annotations

import pytest
from tests.passes.small_wan import SMALL

from rushes.errors import ConfigError
from rushes.passes.base import ClipShape
from rushes.passes.tensorrt_build import ShapeProfile, TensorRTBuild, first_step_build, stack_build

CLIPS = [ClipShape(latent_shape=(4, frames, 8, 8), text_len=5) for frames in (1, 3, 5)]


def test_a_profile_for_every_input_of_the_stack() -> None:
    build = stack_build(SMALL, *CLIPS, precisions=("bf16", "fp8"))
    text = [f"{name}_{layer}" for layer in range(3) for name in ("keys", "values")]
    assert list(build.profiles) == ["x", "time", "cos", "sin", *text]
    assert build.profiles["x"] == ShapeProfile(least=(1, 16, 32), best=(4, 48, 32), most=(8, 80, 32))
    arguments = build.builder_arguments()
    assert arguments["optShapes"].startswith("x:4x48x32,time:4x1x1x6x32")
    assert arguments["memPoolSize"] == "workspace:8192M"
    assert arguments["fp8"] is True
    assert not build.measured


def test_the_first_step_takes_one_latent_frame() -> None:
    profile = first_step_build(*CLIPS).profiles["latent"]
    assert profile.most == (8, 4, 1, 8, 8)


def test_an_engine_belongs_to_gpu_version_graph_and_settings() -> None:
    build, other = stack_build(SMALL, *CLIPS), stack_build(SMALL, *CLIPS, workspace_gib=4.0)
    keys = [
        build.cache_key(b"graph", "H200 9.0", "11.4"),
        build.cache_key(b"graph", "H100 9.0", "11.4"),
        build.cache_key(b"graph", "H200 9.0", "11.5"),
        build.cache_key(b"other", "H200 9.0", "11.4"),
        other.cache_key(b"graph", "H200 9.0", "11.4"),
    ]
    assert len(set(keys)) == len(keys)
    assert build.cache_key(b"graph", "H200 9.0", "11.4") == keys[0]


def test_refuses_what_no_builder_takes() -> None:
    with pytest.raises(ConfigError, match=r"needs least <= best <= most"):
        ShapeProfile(least=(2,), best=(1,), most=(3,))
    with pytest.raises(ConfigError, match="precision 'int4' is none of fp16, bf16, fp8"):
        TensorRTBuild(profiles={}, precisions=("int4",))
    with pytest.raises(ConfigError, match="workspace_gib is 0; needs to be above 0"):
        TensorRTBuild(profiles={}, workspace_gib=0)
