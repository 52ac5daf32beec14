"""How tests run the command: in a process of its own, or in this one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

RUSHES = [sys.executable, "-m", "rushes"]
SMALL = ("--width", "64", "--height", "64", "--num-frames", "5", "--num-inference-steps", "2", "--seed", "7")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Result]
