"""Without the optional packages the CPU back-ends name what to install."""

from __future__ import annotations

import importlib.util

import pytest

from rushes.errors import ConfigError
from rushes.passes.cpu_engines import ENGINES, check_engine


@pytest.mark.parametrize("engine", ENGINES)
def test_names_the_extra(engine: str) -> None:
    if importlib.util.find_spec(engine) is not None:
        pytest.skip(f"{engine} is installed")
    with pytest.raises(ConfigError, match=rf"pass backend: {engine} is not installed: .*rushes\[export\]"):
        check_engine("pass backend", engine, 0)
