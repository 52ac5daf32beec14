"""One contract for every cache of bytes: what it keeps, and that a server that is away costs nobody much."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from real_servers import RealServer
from rushes.errors import ConfigError
from rushes.stores.kv import KVStore
from rushes.stores.kv_memcached import MemcachedKV
from rushes.stores.kv_memory import MemoryKV
from rushes.stores.kv_redis import RedisKV, without_password

PAUSE_S = 0.4


@pytest.fixture(params=["memory", "redis", "memcached"])
def kv(request: pytest.FixtureRequest):
    kv = _make(request.param, request.getfixturevalue)
    yield kv
    kv.close()


def _make(kind: str, fixture: Callable[[str], RealServer], prefix: str = "", pause_s: float = 2.0) -> KVStore:
    if kind == "memory":
        return MemoryKV(max_bytes=10**6)
    address = fixture(f"{prefix}{kind}" if prefix else f"{kind}_server").address
    if kind == "redis":
        return RedisKV(f"redis://{address}/0", pause_s=pause_s)
    return MemcachedKV(address, pause_s=pause_s)


@pytest.mark.parametrize("key", ["plain", "with space\nand more", "ключ", "x" * 1000, "", "%s\0"])
def test_what_is_put_comes_back(kv: KVStore, key: str) -> None:
    assert kv.get(key) is None
    kv.put(key, b"one\0\r\n")
    kv.put(key, b"two\0\r\n")
    assert kv.get(key) == b"two\0\r\n"
    kv.delete(key)
    kv.delete(key)
    assert kv.get(key) is None
    assert kv.num_errors == 0


def test_bytes_of_every_size(kv: KVStore) -> None:
    for size in (0, 1, 2**16, 500_000):
        data = os.urandom(size)
        kv.put("sized", data)
        assert kv.get("sized") == data


def test_a_time_ends(kv: KVStore) -> None:
    kv.put("short", b"1", ttl_s=1.0)
    kv.put("long", b"1", ttl_s=400 * 86_400)
    assert kv.get("short") == kv.get("long") == b"1"
    time.sleep(2.1)
    assert kv.get("short") is None
    assert kv.get("long") == b"1"


def test_many_threads(kv: KVStore) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for step in range(40):
            kv.put(f"mine {number}", f"{number} {step}".encode())
            kv.put("ours", b"x" * 1000)
            if kv.get(f"mine {number}") != f"{number} {step}".encode():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_killed_server_is_a_quick_miss_and_comes_back(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    server = request.getfixturevalue(f"own_{kind}")
    kv = _make(kind, request.getfixturevalue, "own_", PAUSE_S)
    kv.put("a", b"1")
    server.kill()
    start = time.monotonic()
    for _ in range(200):
        assert kv.get("a") is None
        kv.put("a", b"2")
        kv.delete("a")
    assert time.monotonic() - start < 1.0
    assert 1 <= kv.num_errors <= 4
    server.start()
    time.sleep(PAUSE_S)
    kv.put("a", b"3")
    assert kv.get("a") == b"3"
    told = [record.message for record in caplog.records if "is away" in record.message]
    assert len(told) == 1
    kv.close()


def _wait_until_stopped(pid: int) -> None:
    """A signal is under way for a moment, in which other threads still answer."""
    deadline = time.monotonic() + 5
    while any(
        thread.read_text().rsplit(")", 1)[1].split()[0] != "T"
        for thread in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.001)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_server_that_hangs_holds_nobody_up_for_long(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"own_{kind}")
    kv = _make(kind, request.getfixturevalue, "own_", 30.0)
    kv.put("a", b"1")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        _wait_until_stopped(server.pid)
        start = time.monotonic()
        assert kv.get("a") is None
        assert time.monotonic() - start < 1.0
        start = time.monotonic()
        assert all(kv.get("a") is None for _ in range(1000))
        assert time.monotonic() - start < 0.2
    finally:
        os.kill(server.pid, signal.SIGCONT)
    kv.close()


def test_memory_stays_within_its_bytes() -> None:
    kv = MemoryKV(max_bytes=1000)
    for number in range(100):
        kv.put(f"{number:02}", bytes(98))
        kv.get("00")  # used all the time, so it stays
        assert kv.num_bytes <= 1000
    assert [n for n in range(100) if kv.get(f"{n:02}") is not None] == [0, *range(91, 100)]
    kv.put("large", bytes(1001))
    assert kv.get("large") is None
    kv.put("00", bytes(1001))
    assert kv.get("00") is None, "what does not fit leaves no older value behind"


def test_memory_forgets_in_time() -> None:
    now = [0.0]
    kv = MemoryKV(max_bytes=100, clock=lambda: now[0])
    kv.put("a", b"1", ttl_s=5)
    now[0] = 4.9
    assert kv.get("a") == b"1"
    now[0] = 5.0
    assert kv.get("a") is None
    assert kv.num_bytes == 0


def test_memcached_refuses_what_is_too_large_and_goes_on(memcached_server: RealServer) -> None:
    kv = MemcachedKV(memcached_server.address)
    kv.put("large", bytes(2_000_000))
    assert kv.get("large") is None
    kv.put("small", b"1")
    assert kv.get("small") == b"1"
    assert kv.num_errors == 0
    kv.close()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RedisKV("http://user:secret@host"), "expected redis://"),
        (lambda: MemcachedKV("host"), "expected HOST:PORT"),
        (lambda: MemcachedKV("host:99999"), "expected HOST:PORT"),
    ],
)
def test_an_address_that_is_none(make: Callable[[], KVStore], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make()
    assert "secret" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    assert without_password("redis://:p@ss@host:1/0") == "redis://...@host:1/0"
    assert without_password("redis://host:1/0") == "redis://host:1/0"
