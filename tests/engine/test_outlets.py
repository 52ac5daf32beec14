"""What a courier brings, in which order, and what it does not bring any more."""

from __future__ import annotations

import threading

from rushes.engine.outlets import Courier


def test_tasks_run_in_order_beside_the_caller():
    seen, errors = [], []
    courier = Courier("job", errors.append)
    for number in range(50):
        courier.send(lambda number=number: seen.append((number, threading.current_thread().name)))
    courier.send(courier.close)
    courier.join()
    assert [number for number, _ in seen] == list(range(50))
    assert all("courier-job" in name for _, name in seen)
    assert not errors


def test_an_error_is_told_and_closing_skips_what_waits():
    seen, errors, held = [], [], threading.Event()
    courier = Courier(
        "job", lambda error: (errors.append(str(error)), courier.close(lambda: seen.append("last")))
    )

    def fail():
        held.wait(10)
        raise OSError("disk full")

    courier.send(fail)
    courier.send(lambda: seen.append("skipped"), always=lambda: seen.append("always"))
    held.set()
    courier.join()
    assert errors == ["disk full"]
    assert seen == ["always", "last"]


def test_what_is_sent_too_late_is_dropped_but_for_its_always():
    seen = []
    courier = Courier("job", seen.append)
    courier.close()
    courier.join()
    courier.send(lambda: seen.append("late"), always=lambda: seen.append("always"))
    courier.close(lambda: seen.append("again"))
    assert seen == ["always"]


def test_a_task_knows_whether_another_waits_behind_it():
    seen, held = [], threading.Event()
    courier = Courier("job", seen.append)
    courier.send(lambda: (held.wait(10), seen.append(courier.is_last)))
    courier.send(lambda: seen.append(courier.is_last))
    held.set()
    courier.send(courier.close)
    courier.join()
    assert seen[0] is False
