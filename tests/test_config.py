"""Settings from the environment."""

import pytest

from rushes.config import Settings, read_settings
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
