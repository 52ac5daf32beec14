"""The servers that other tests stand on: started, told of, ended."""

from __future__ import annotations

import os

import pytest

from real_servers import (
    PACKAGES,
    RealServer,
    S3Server,
    find_binary,
    http_status,
    need_binary,
    pytest_report_header,
    takes_connections,
)


def test_the_header_names_every_binary() -> None:
    header = pytest_report_header()
    assert all(name in header for name in PACKAGES)


def test_a_missing_binary_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "no-such-server", "nowhere")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install nowhere"):
        need_binary("no-such-server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install nowhere"):
        need_binary("no-such-server")
    assert find_binary("no-such-server") is None


def test_a_killed_server_is_gone_and_comes_back_on_its_port(own_redis: RealServer) -> None:
    pid = own_redis.pid
    own_redis.kill()
    assert not takes_connections(own_redis.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own_redis.start()
    assert takes_connections(own_redis.port)


def test_s3_lets_nobody_in_without_a_key(s3_server: S3Server) -> None:
    assert http_status(s3_server.port, "/videos/x") == 403
