"""How long a fresh process takes to be ready; the process itself is `rushes.profiling.bench.child`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rushes.errors import EngineError
from rushes.profiling.bench.base import Place
from rushes.profiling.bench.seconds import ColdStart
from rushes.stores.request_json import to_json
from rushes.types import GenerateRequest

CHILD = (sys.executable, "-m", "rushes.profiling.bench.child")


def cold_start(
    contender: str, place: Place, request: GenerateRequest, *, command: Sequence[str] = CHILD
) -> ColdStart:
    """Start a process that opens a contender and makes one short clip. Files that were read before are in the
    system's cache, as they are on a server that restarts a worker.

    Args:
        contender: "rushes", or the name of a peer.
        request: the clip whose size counts, `shortest` already.
        command: what starts the process.

    Raises:
        EngineError: the process failed; its last line says why.
    """
    asked = {
        "contender": contender,
        "model": place.model,
        "device": place.device,
        "dtype": place.dtype,
        "plan": place.plan,
        "request": to_json(request),
    }
    started_at = time.monotonic()
    ended = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"status {ended.returncode}"]
        raise EngineError(f"{contender}: the fresh process failed: {last[0]}")
    return _of_child(json.loads(ended.stdout.strip().splitlines()[-1]), started_at)


def _of_child(told: dict[str, Any], started_at: float) -> ColdStart:
    """The child's moments, which are of the same clock: CLOCK_MONOTONIC counts from the machine's start."""
    return ColdStart(
        import_s=told["imported_at"] - started_at,
        load_s=told["loaded_at"] - told["imported_at"],
        first_run_s=told["ready_at"] - told["loaded_at"],
        peak_host_bytes=told["peak_host_bytes"],
        peak_device_bytes=told["peak_device_bytes"],
    )
