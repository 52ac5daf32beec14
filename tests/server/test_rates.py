"""Requests a minute, in this process and in a real Redis that dies half way."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass

import pytest

from real_servers import RealServer
from rushes.server.rates import PAUSE_S, TIMEOUT_S, WINDOW_S, LocalRate, Rate, RedisRate, Window


@dataclass
class Timer:
    """Stands still until it is told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def taken(rate: Rate, num: int, *, limit: int = 5, key_id: str = "k") -> int:
    """How many of `num` requests are within the limit."""
    return sum(rate.hit(key_id, limit) is None for _ in range(num))


def test_a_minute_of_requests() -> None:
    timer = Timer()
    rate = LocalRate(timer=timer)
    assert taken(rate, 20) == 5
    assert taken(rate, 20, key_id="other") == 5
    window = rate.hit("k", 5)
    assert window is not None
    assert (window.used, window.reset_s) == (5, 2 * WINDOW_S)
    timer.now += window.wait_s(5)
    assert taken(rate, 20) == 1
    timer.now += WINDOW_S / 2
    assert 2 <= taken(rate, 20) <= 3, "half of the window before still counts"
    timer.now += 2 * WINDOW_S
    assert taken(rate, 20) == 5


@pytest.mark.parametrize("age", [0.0, 7.3, 30.0, 59.9])
@pytest.mark.parametrize("limit", [1, 3, 60, 1000])
def test_whoever_waits_as_told_is_let_in(age: float, limit: int) -> None:
    timer = Timer(age)
    rate = LocalRate(timer=timer)
    for pause in (0.0, 11.0, 35.0, 50.0):
        timer.now += pause
        taken(rate, limit, limit=limit)
        window = rate.hit("k", limit)
        assert window is not None
        wait_s = window.wait_s(limit)
        assert 0 < wait_s <= WINDOW_S + 0.01
        timer.now += wait_s
        assert rate.hit("k", limit) is None


def test_a_window_that_lets_pass_needs_no_wait() -> None:
    assert Window(before=0, before_ends_s=0, now=0, now_ends_s=9).wait_s(1) == 0
    assert Window(before=0, before_ends_s=0, now=0, now_ends_s=9).reset_s == 0


def test_threads_count_together() -> None:
    rate = LocalRate(timer=Timer())
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(taken(rate, 200, limit=100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100


def test_gateways_share_redis(own_redis: RealServer) -> None:
    rates = [RedisRate(f"redis://{own_redis.address}/0") for _ in range(2)]
    assert [taken(rate, 3) for rate in rates] == [3, 2]
    window = rates[0].hit("k", 5)
    assert window is not None
    assert window.used == 5
    assert WINDOW_S - 2 < window.wait_s(5) <= WINDOW_S + 0.01
    assert taken(rates[1], 3, key_id="other") == 3
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda rate=rate: counts.append(taken(rate, 100, limit=70, key_id="race")))
        for rate in rates * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 70
    assert [rate.num_errors for rate in rates] == [0, 0]
    for rate in rates:
        rate.close()


def test_redis_dies_and_comes_back(own_redis: RealServer) -> None:
    timer = Timer()
    rate = RedisRate(f"redis://{own_redis.address}/0", timer=timer)
    assert taken(rate, 3) == 3
    own_redis.kill()
    assert taken(rate, 20) == 5, "counted here, from the start"
    assert (rate.num_errors, rate.is_away) == (1, True)
    timer.now += PAUSE_S
    assert taken(rate, 20) == 0
    assert rate.num_errors == 2
    own_redis.start()
    timer.now += PAUSE_S
    assert taken(rate, 20) == 5
    assert (rate.num_errors, rate.is_away) == (2, False)
    rate.close()


def test_a_redis_that_says_nothing_is_not_waited_for() -> None:
    """A host that takes connections and never answers; every request after the first costs nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rate = RedisRate(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        start = time.perf_counter()
        assert taken(rate, 50) == 5
        assert time.perf_counter() - start < 2 * TIMEOUT_S + 0.5
        assert rate.num_errors == 1
        rate.close()
