"""Clocks, power and temperature of the GPU while a row is measured, by nvidia-smi twice a second."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

COLUMNS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
COMMAND = ("nvidia-smi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits", "-lms", "500")


@contextmanager
def card_watch(device: torch.device) -> Iterator[dict[str, Any]]:
    """Fills the dictionary when the block ends: median, lowest and highest of each column. It stays
    empty on a CPU; where nvidia-smi fails, it says so."""
    found: dict[str, Any] = {}
    if device.type != "cuda":
        yield found
        return
    try:
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError as error:
        found["nvidia-smi"] = f"failed: {error}"
        yield found
        return
    try:
        yield found
    finally:
        process.terminate()
        text, _ = process.communicate(timeout=20)
        found.update(summary(text))


def summary(text: str) -> dict[str, Any]:
    """Of what nvidia-smi printed, a line a sample; lines that are no numbers are left out.

    Example:
        >>> summary("1980, 3201, 690.5, 60\\n1755, 3201, 700.1, 62\\n")["clocks.sm [MHz]"]
        {'median': 1867.5, 'low': 1755.0, 'high': 1980.0, 'samples': 2}
    """
    rows = [row for line in text.splitlines() if (row := _numbers(line)) is not None]
    units = ("MHz", "MHz", "W", "C")
    columns = zip(*rows, strict=True) if rows else ()
    return {
        f"{name} [{unit}]": {
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "samples": len(values),
        }
        for name, unit, values in zip(COLUMNS, units, columns, strict=False)
    }


def _numbers(line: str) -> tuple[float, ...] | None:
    try:
        row = tuple(float(cell) for cell in line.split(","))
    except ValueError:
        return None
    return row if len(row) == len(COLUMNS) else None
