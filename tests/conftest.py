"""Makes the modules beside this file importable from every test, keeps torch to one thread, and stops a test
that leaves a span open, beneath which the next one's would lie."""

from collections.abc import Iterator

import pytest
import torch

from real_servers import (
    memcached_server,
    own_memcached,
    own_redis,
    pytest_report_header,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    redis_server,
    s3_server,
)
from rushes.trace import current

__all__ = [
    "memcached_server",
    "own_memcached",
    "own_redis",
    "pytest_report_header",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "redis_server",
    "s3_server",
]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def leaves_no_span_open() -> Iterator[None]:
    yield
    assert current() is None, current()
