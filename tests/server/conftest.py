"""One service of real processes for all tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_gateways import Sleeping, sleeping_service


@pytest.fixture(scope="session")
def sleeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleeping]:
    """A gateway and a worker whose stages sleep."""
    with sleeping_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder for a store."""
    return tmp_path / "store"
