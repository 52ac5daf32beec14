"""News that the store has changed: heard in other processes, never in the way, harmless when lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from real_servers import RealServer
from rushes.engine.workplace import Workplace
from rushes.pipelines.rules import load_rules, resolve
from rushes.stores.bell import Bell
from rushes.stores.bell_folder import FolderBell
from rushes.stores.bell_redis import RedisBell
from rushes.types import JobOptions

PAUSE_S = 0.3


@pytest.fixture(params=["folder", "redis"])
def bell(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "folder":
        bell: Bell = FolderBell(tmp_path / "bells")
        assert bell.wait(5), "it listens"
    else:
        address = request.getfixturevalue("redis_server").address
        bell = RedisBell(f"redis://{address}/0", channel=f"bell-{time.time_ns()}")
        assert bell.wait(5), "the subscription stands"
    yield bell
    bell.close()


def test_a_ring_is_heard_at_once(bell: Bell) -> None:
    heard_at: list[float] = []
    waits = threading.Thread(target=lambda: bell.wait(10) and heard_at.append(time.monotonic()))
    waits.start()
    time.sleep(0.1)
    rung_at = time.monotonic()
    bell.ring()
    waits.join()
    assert heard_at[0] - rung_at < 0.5


def test_without_a_ring_it_is_a_clock(bell: Bell) -> None:
    start = time.monotonic()
    assert not bell.wait(0.2)
    assert 0.19 < time.monotonic() - start < 1.0


def test_what_was_rung_between_two_waits_is_heard(bell: Bell) -> None:
    for _ in range(5):
        bell.ring()
    time.sleep(0.2)
    assert bell.wait(0.2)
    assert not bell.wait(0.2), "several are one"


def test_closing_ends_a_wait(bell: Bell) -> None:
    waits = threading.Thread(target=bell.wait, args=(30,))
    waits.start()
    bell.close()
    waits.join(5)
    assert not waits.is_alive()


@pytest.mark.parametrize("kind", ["folder", "redis"])
def test_a_write_of_another_process_is_heard(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from rushes.engine.workplace import Workplace;"
        "from rushes.pipelines.rules import load_rules, resolve; from rushes.types import JobOptions\n"
        "redis = sys.argv[2] or None\n"
        "with Workplace.of_services(Path(sys.argv[1]), redis=redis) as place:\n"
        "    place.jobs.create(resolve(load_rules('toy'), 'a dog', seed=1), JobOptions())\n"
        "    sys.stdin.readline()\n"
    )
    bell: Bell = FolderBell(tmp_path / "bells")
    url = ""
    if kind == "redis":
        url = f"redis://{request.getfixturevalue('redis_server').address}/0"
        bell = RedisBell(url)
    try:
        assert bell.wait(5)
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), url], stdin=subprocess.PIPE, text=True
        )
        assert bell.wait(30)
        other.communicate("\n", timeout=30)
        assert other.returncode == 0
    finally:
        bell.close()


def test_writers_do_not_notice_a_server_that_is_gone_or_hangs(own_redis: RealServer, tmp_path: Path) -> None:
    bell = RedisBell(f"redis://{own_redis.address}/0", pause_s=PAUSE_S)
    request = resolve(load_rules("toy"), "a dog", seed=1)
    with Workplace(tmp_path / "store", bell=bell) as place:
        place.jobs.create(request, JobOptions())
        os.kill(own_redis.pid, signal.SIGSTOP)
        longest = max(_seconds(bell) for _ in range(200))
        os.kill(own_redis.pid, signal.SIGCONT)
        own_redis.kill()
        longest = max(longest, *(_seconds(bell) for _ in range(200)))
        place.jobs.create(request, JobOptions())
        assert place.jobs.count() == 2
    assert longest < 0.05
    bell.close()


def test_a_listener_that_died_is_forgotten_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (tmp_path / f"{dead.pid}-9").touch()
    for stranger in ("a stranger's", "1-99999", "1-²"):
        (tmp_path / stranger).touch()
    bell = FolderBell(tmp_path)
    bell.ring()
    assert bell.wait(1)
    left = {each.name.partition("-")[0] for each in tmp_path.iterdir()}
    assert left == {str(os.getpid()), "a stranger's", "1"}
    bell.close()
    assert {each.name for each in tmp_path.iterdir()} == {"a stranger's", "1-99999", "1-²"}
    bell.ring()
    assert not bell.wait(30), "closed"


def test_every_listener_hears(tmp_path: Path) -> None:
    first, second = FolderBell(tmp_path), FolderBell(tmp_path)
    for bell in (first, second):
        assert bell.wait(1), "it listens"
    ringer = FolderBell(tmp_path)
    for _ in range(2):
        for _ in range(10_000):
            ringer.ring()  # more than a buffer holds
        assert first.wait(1)
        assert second.wait(1)
        while first.wait(0) or second.wait(0):
            pass
    for bell in (first, second, ringer):
        bell.close()


def test_a_forked_child_neither_hangs_nor_deafens_its_parent(tmp_path: Path) -> None:
    bell = FolderBell(tmp_path)
    assert bell.wait(1), "it listens"
    with bell._lock:  # as if another thread rang
        child = os.fork()
        if not child:
            bell.ring()
            bell.close()
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    while bell.wait(0):
        pass
    FolderBell(tmp_path).ring()
    assert bell.wait(5)
    bell.close()


def test_without_a_folder_it_is_a_clock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bells").touch()
    bell = FolderBell(tmp_path / "bells")
    bell.ring()
    for _ in range(3):
        assert not bell.wait(0.05)
    assert len(caplog.records) == 1, "and says so once"
    bell.close()


def _seconds(bell: RedisBell) -> float:
    start = time.monotonic()
    bell.ring()
    taken = time.monotonic() - start
    time.sleep(0.002)
    return taken


def test_a_server_that_comes_back_is_heard_again(own_redis: RealServer) -> None:
    url = f"redis://{own_redis.address}/0"
    ours, theirs = RedisBell(url, pause_s=PAUSE_S), RedisBell(url, pause_s=PAUSE_S)
    assert ours.wait(5)
    own_redis.kill()
    theirs.ring()
    assert not ours.wait(PAUSE_S)
    own_redis.start()
    assert ours.wait(10), "the subscription is there again"
    deadline = time.monotonic() + 10
    while not ours.wait(0.1):
        theirs.ring()
        assert time.monotonic() < deadline
    assert ours.num_errors >= 1
    ours.close()
    theirs.close()


def test_rings_that_follow_each_other_are_sent_as_few(redis_server: RealServer) -> None:
    bell = RedisBell(f"redis://{redis_server.address}/0", channel="storm")
    listener = RedisBell(f"redis://{redis_server.address}/0", channel="storm")
    assert listener.wait(5)
    stops = threading.Event()
    heard: list[bool] = []
    counts = threading.Thread(
        target=lambda: [heard.append(listener.wait(0.05)) for _ in iter(stops.is_set, True)]
    )
    counts.start()
    start = time.monotonic()
    while time.monotonic() - start < 0.5:
        bell.ring()
    stops.set()
    counts.join()
    assert 1 <= sum(heard) <= 260
    bell.close()
    listener.close()
