"""A function as compiled graphs of static shapes, without a graph break."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from types import FunctionType
from typing import Any, cast

import torch


class StaticGraphs:
    """Each key has a graph of its own, made when it is first met and never again.

    Threads may call it; one at a time compiles.
    """

    def __init__(self, function: Callable[..., Any], backend: str) -> None:
        self._function, self._backend = cast(FunctionType, function), backend
        self._lock = Lock()
        self._graphs: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, key: Hashable, *inputs: object) -> Any:
        key = (key, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        graph = self._graphs.get(key)
        if graph is not None:
            return graph(*inputs)
        with self._lock:
            graph = self._graphs.get(key) or torch.compile(
                _fresh(self._function),
                fullgraph=True,
                dynamic=False,
                backend=self._backend,
                # The key says all that may change; to guard thousands of modules took 3 % of a forward.
                options={"guard_filter_fn": lambda guards: [False for _ in guards]},
            )
            made = graph(*inputs)
            self._graphs[key] = graph
        return made


def _fresh(function: FunctionType) -> FunctionType:
    """The same function with a code object of its own. The compiler keeps graphs with the code object, goes
    through them one by one and stops at a limit of a few."""
    copy = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
