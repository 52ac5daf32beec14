"""Spans: what ran when, and beneath what, told to whoever listens. No torch here.

```python
with span("vae_decode", latent=3) as unit:
    ...
    unit.note(frames=4)
```

While nobody listens a span is one call that returns a shared object, well below a microsecond; its
attributes are evaluated all the same, so they should be values at hand. Times are `time.perf_counter_ns`, of
the host: what a device does with the work is for the listener to find out (`rushes.profiling.recorder`).
Seconds since the epoch are `time.time_ns() - time.perf_counter_ns()` away, taken once.

A generator must not keep a block's span open while it is suspended, or its consumer's spans would lie beneath
it: `begin`, `end` and `each_under` are for such work, and for work that several threads take turns at.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter_ns
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar

__all__ = [
    "Listener",
    "Span",
    "SpanList",
    "Value",
    "begin",
    "current",
    "each_under",
    "end",
    "event",
    "is_on",
    "listen",
    "span",
    "traced",
    "under",
    "waited",
]

Value = str | int | float | bool | None
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class Span:
    """One stretch of work.

    Attributes:
        attributes: what is worth knowing of it; grows until it is read.
        parent: the span that was open around it in the same context, None for a root.
        thread: `threading.get_ident` of where it ran.
        start_ns, end_ns: by `perf_counter_ns`; equal for a moment, end 0 while it is open.
        error: name of the exception that ended it, None where it ended well.
        is_event: it is a moment, which takes no time and has nothing beneath it.
    """

    name: str
    attributes: dict[str, Value]
    parent: Span | None
    thread: int
    start_ns: int
    end_ns: int = 0
    error: str | None = None
    is_event: bool = False

    def note(self, **attributes: Value) -> None:
        """Add what is known only now: how a look-up ended, what a step has run."""
        self.attributes.update(attributes)

    @property
    def seconds(self) -> float:
        """How long it took the host."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def path(self) -> tuple[str, ...]:
        """Names from the root to this span."""
        above = self.parent.path if self.parent else ()
        return (*above, self.name)


class Listener(Protocol):
    """Learns of spans, on the thread that runs them and in their way: must be quick and must not raise."""

    def opened(self, span: Span) -> None:
        """It has just begun; its parent is open."""

    def closed(self, span: Span) -> None:
        """It has just ended; `opened` was told of it, unless this listener came later."""


@dataclass(slots=True, kw_only=True)
class SpanList:
    """A listener that keeps every span that ended, in order of their ends. For any number of threads."""

    spans: list[Span] = field(default_factory=list)

    def opened(self, span: Span) -> None:
        """Nothing to do."""

    def closed(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)


_current: ContextVar[Span | None] = ContextVar("rushes_span", default=None)
_lock = threading.Lock()
_listeners: tuple[Listener, ...] = ()


class _Off:
    """What `span` returns while nobody listens."""

    __slots__ = ()

    def __enter__(self) -> _Off:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""

    def note(self, **attributes: Value) -> None:
        """Nobody would read it."""


_OFF = _Off()


class _Open:
    """A span that somebody listens to; begins and ends with the block."""

    __slots__ = ("_attributes", "_listeners", "_name", "_span")

    def __init__(self, name: str, attributes: dict[str, Value]) -> None:
        self._name, self._attributes, self._listeners = name, attributes, _listeners

    def __enter__(self) -> Span:
        begun = self._span = Span(
            name=self._name,
            attributes=self._attributes,
            parent=_current.get(),
            thread=threading.get_ident(),
            start_ns=perf_counter_ns(),
        )
        _current.set(begun)
        for listener in self._listeners:
            listener.opened(begun)
        return begun

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = self._span
        # Set, not reset by a token: a generator may be closed in another context than it was begun in.
        _current.set(begun.parent)
        begun.error = kind.__name__ if kind is not None else None
        begun.end_ns = perf_counter_ns()
        for listener in self._listeners:
            listener.closed(begun)


def span(name: str, /, **attributes: Value) -> _Open | _Off:
    """A context manager around one stretch of work; its value takes a `note`.

    Example:
        >>> heard = SpanList()
        >>> with listen(heard), span("request"), span("denoise", step=0) as step:
        ...     step.note(expert="high")
        >>> [(each.path, each.attributes) for each in heard.spans]
        [(('request', 'denoise'), {'step': 0, 'expert': 'high'}), (('request',), {})]
    """
    return _Open(name, attributes) if _listeners else _OFF


def traced(name: str, /, **attributes: Value) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: every call of the function is a span.

    The function carries `traced_as`, so that whoever adds spans from outside leaves it alone.

    Example:
        >>> @traced("tokenize")
        ... def tokens(text: str) -> list[str]:
        ...     return text.split()
        >>> heard = SpanList()
        >>> with listen(heard):
        ...     tokens("a dog")
        ['a', 'dog']
        >>> [each.name for each in heard.spans]
        ['tokenize']
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            if not _listeners:
                return function(*args, **kwargs)
            with _Open(name, dict(attributes)):
                return function(*args, **kwargs)

        inside.traced_as = name  # type: ignore[attr-defined]  # functions take attributes
        return inside

    return decorate


def event(name: str, /, **attributes: Value) -> None:
    """A moment, as a span without length: a cache that was hit, a checkpoint that was dropped."""
    if _listeners:
        _tell(name, attributes, perf_counter_ns(), is_event=True)


def waited(name: str, since_ns: int, /, **attributes: Value) -> None:
    """A span that ends now and began at `since_ns` by `perf_counter_ns`: time in a queue, which no block
    encloses."""
    if _listeners:
        _tell(name, attributes, since_ns, is_event=False)


def _tell(name: str, attributes: Mapping[str, Value], start_ns: int, *, is_event: bool) -> None:
    told = Span(
        name=name,
        attributes=dict(attributes),
        parent=_current.get(),
        thread=threading.get_ident(),
        start_ns=start_ns,
        is_event=is_event,
    )
    for listener in _listeners:
        listener.opened(told)
    told.end_ns = start_ns if is_event else perf_counter_ns()
    for listener in _listeners:
        listener.closed(told)


def begin(name: str, /, *, since_ns: int | None = None, **attributes: Value) -> Span | None:
    """Open a span that no block encloses, to be handed to `under` and to `end`; None while nobody listens.

    It does not become the current one. `end` may be called on another thread, once.

    Args:
        since_ns: when it began, by `perf_counter_ns`; None for now.
    """
    if not _listeners:
        return None
    begun = Span(
        name=name,
        attributes=attributes,
        parent=_current.get(),
        thread=threading.get_ident(),
        start_ns=perf_counter_ns() if since_ns is None else since_ns,
    )
    for listener in _listeners:
        listener.opened(begun)
    return begun


def end(begun: Span | None, error: BaseException | None = None) -> None:
    """Close what `begin` returned."""
    if begun is None:
        return
    begun.error = None if error is None else type(error).__name__
    begun.end_ns = perf_counter_ns()
    for listener in _listeners:
        listener.closed(begun)


def is_on() -> bool:
    """Whether anybody listens: worth asking before an attribute that takes time to compute."""
    return bool(_listeners)


def current() -> Span | None:
    """The innermost open span of this context, to be handed to `under` on another thread."""
    return _current.get()


@contextmanager
def under(parent: Span | None) -> Iterator[None]:
    """Spans of the block have this parent: for a thread that works for what another one has begun."""
    before = _current.get()
    _current.set(parent)
    try:
        yield
    finally:
        _current.set(before)


def each_under(parent: Span | None, items: Iterable[T]) -> Iterator[T]:
    """The same items, each made under this parent; whoever takes them does so under their own."""
    iterator = iter(items)
    while True:
        with under(parent):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Tell `listener` of every span, of any thread, that begins within the block."""
    global _listeners
    with _lock:
        _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        with _lock:
            _listeners = tuple(each for each in _listeners if each is not listener)
