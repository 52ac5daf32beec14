"""Settings from the environment."""

import os
import subprocess
import sys

import pytest

from rushes.config import Settings, let_segments_grow, let_threads_sleep, read_settings
from rushes.errors import ConfigError


def test_an_empty_environment_decides_nothing():
    assert read_settings({"PATH": "/bin"}) == Settings()


def test_every_setting_is_read():
    environ = {"RUSHES_DEVICE": "cuda:1", "RUSHES_DTYPE": "float16", "RUSHES_NUM_THREADS": "3"}
    assert read_settings(environ) == Settings(device="cuda:1", dtype="float16", num_threads=3)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RUSHES_DTYPE": "bf16"}, "RUSHES_DTYPE: 'bf16' is not one of"),
        ({"RUSHES_NUM_THREADS": "0"}, "whole number >= 1"),
        ({"RUSHES_NUM_THREADS": "two"}, "'two'"),
        ({"RUSHES_DEVISE": "cpu"}, "did you mean 'device'"),
    ],
)
def test_what_cannot_be_read_stops(environ, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(environ)


def test_threads_sleep_unless_told_otherwise() -> None:
    environ: dict[str, str] = {}
    let_threads_sleep(environ)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE"}
    chosen = {"OMP_WAIT_POLICY": "ACTIVE"}
    let_threads_sleep(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_importing_rushes_is_in_time_for_torch() -> None:
    code = "import os, rushes; print(os.environ['OMP_WAIT_POLICY'])"
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "PASSIVE"


def test_cuda_segments_grow_unless_one_of_both_variables_is_set():
    environ: dict[str, str] = {}
    let_segments_grow(environ)
    assert environ == dict.fromkeys(
        ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), "expandable_segments:True"
    )
    chosen = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
    let_segments_grow(chosen)
    assert chosen == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
