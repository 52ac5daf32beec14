"""A fresh process that becomes ready and says when: reads what to open as JSON on standard input, prints the
moments by `time.monotonic` and its peak memory as the last line on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any


def main() -> None:
    """Open a contender, make one clip, tell. An error of ours is one line on standard error."""
    from rushes.errors import RushesError

    try:
        print(json.dumps(become_ready(json.load(sys.stdin))), flush=True)
    except RushesError as error:
        sys.exit(" ".join(str(error).split()))


def become_ready(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The moments, and what was held by then."""
    import torch

    from rushes.profiling.bench.base import Place
    from rushes.profiling.bench.contenders import open_contender
    from rushes.profiling.bench.imports import ImportClock
    from rushes.profiling.bench.measure import measure
    from rushes.profiling.bench.memory import peak_device_bytes, peak_host_bytes
    from rushes.stores.request_json import from_json
    from rushes.types import GenerateRequest

    device = torch.device(asked["device"])
    place = Place(model=asked["model"], device=asked["device"], dtype=asked["dtype"])
    begin_at = time.monotonic()
    with ImportClock() as imports:
        contender = open_contender(asked["contender"], place)
    loaded_at = time.monotonic()
    measure(contender, from_json(GenerateRequest, asked["request"]))
    return {
        # As if all that opening imports had been imported before it.
        "imported_at": begin_at + imports.seconds,
        "loaded_at": loaded_at,
        "ready_at": time.monotonic(),
        "peak_host_bytes": peak_host_bytes(),
        "peak_device_bytes": peak_device_bytes(device),
    }


if __name__ == "__main__":
    main()
