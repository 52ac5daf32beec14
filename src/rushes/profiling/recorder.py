"""Listens to the spans of one thread and remembers where host and device stood at each boundary."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rushes.profiling.timeline import Boundary, SpanTime, split
from rushes.trace import Span

if TYPE_CHECKING:
    from rushes.profiling.device import Device


@dataclass(slots=True, kw_only=True)
class Recorder:
    """A listener for the thread that it is made on; spans of other threads run beside and are left out. So
    are events, which take no time.

    Attributes:
        beside: spans of other threads that have ended.
    """

    device: Device
    beside: list[Span] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)
    _passed: list[tuple[Span, bool, Any]] = field(default_factory=list)

    def opened(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if span.thread == self._thread and not span.is_event:
            self._passed.append((span, True, self.device.mark()))

    def closed(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if span.thread != self._thread:
            self.beside.append(span)
        elif not span.is_event:
            self._passed.append((span, False, self.device.mark()))

    def times(self) -> list[SpanTime]:
        """The timeline so far; the outermost span must have ended. Waits for the device."""
        passed = self.device.passed([mark for _, _, mark in self._passed])
        return split(
            [
                Boundary(
                    span=span,
                    is_start=is_start,
                    host_s=(span.start_ns if is_start else span.end_ns) / 1e9,
                    device_s=device_s,
                )
                for (span, is_start, _), device_s in zip(self._passed, passed, strict=True)
            ]
        )
