"""Opens spans from outside around code that opens none itself: another engine's.

What is decorated with `rushes.trace.traced` is left alone. Everything is put back when the block ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rushes.trace import Value, span

Describe = Callable[..., Mapping[str, Value]]
"""Attributes of a call's span, from its arguments."""


def _nothing(*args: Any, **kwargs: Any) -> Mapping[str, Value]:
    return {}


@contextmanager
def wrapped(owner: Any, name: str, span_name: str, describe: Describe = _nothing) -> Iterator[None]:
    """Every call of `owner.name` is a span while the block lasts.

    Args:
        owner: a module, a class or an object.
        describe: called with the arguments of each call.
    """
    original = getattr(owner, name)
    if getattr(original, "traced_as", None) is not None:
        yield
        return

    @functools.wraps(original)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with span(span_name, **describe(*args, **kwargs)):
            return original(*args, **kwargs)

    with replaced(owner, name, inside):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while the block lasts."""
    is_own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
