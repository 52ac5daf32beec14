"""Workers as real processes: one that hangs, and many that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_parts import FAST, working
from test_worker import alone

from benchmarks import chaos
from rushes.engine.client import StoreClient, result
from rushes.engine.worker import HUNG_EXIT
from rushes.stores.sqlite import SqliteJobStore
from tiny_parts import request, tiny_model

HERE = Path(__file__).parent


def test_a_hung_worker_is_ended_and_another_goes_on(tmp_path):
    database = tmp_path / "jobs.sqlite"
    store = SqliteJobStore(database)
    asked = request(steps=6)
    job_id = StoreClient(store).submit(asked)
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.run(
        [sys.executable, str(HERE / "hanging_worker.py"), str(tmp_path)], env=environ, timeout=60
    )
    assert process.returncode == HUNG_EXIT
    assert store.get(job_id).status == "running", "its lease has not run out yet"
    store.close()
    policy = replace(FAST, lease_s=1.0)
    with working(tmp_path / "blobs", database=database, max_batch=1, policy=policy) as second:
        result(second.client, job_id)
        record = second.store.get(job_id)
        resumed = [e.data["steps"] for e in second.store.events(job_id) if e.kind == "resumed"]
        assert (record.deaths, record.token, resumed) == (1, 2, [2])
        assert np.array_equal(second.clip(job_id), alone(tiny_model(), asked))


@pytest.mark.timeout(600)
def test_no_job_is_lost_when_workers_are_killed():
    outcomes = chaos.run(rounds=12, seed=1)
    assert {outcome.point for outcome in outcomes} == set(chaos.POINTS)
    assert not [outcome for outcome in outcomes if outcome.problem]
    assert any(outcome.steps_kept for outcome in outcomes), "no job went on from a checkpoint"
