"""Makes the modules beside this file importable from every test, and keeps torch to one thread."""

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
