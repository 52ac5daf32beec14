"""Records what operators and kernels do while a clip is made: torch.profiler with our annotations."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from rushes import trace
from rushes.profiling.kineto import CLOCK, LINE, MODULE, SPAN, Capture, read_capture
from rushes.trace import Span

SAMPLE_S = 0.001
"""Between two looks at where the host is."""

# Whose frames say nothing about who asked for something. Python's own library holds the packages' folder.
_TORCH, _OURS = Path(torch.__file__).parent, Path(__file__).parent
_WRAPPERS = (_OURS / "instrument.py", _OURS / "recorder.py", _OURS / "device.py", Path(__file__))
_SKIPPED = (*(str(path) for path in (_TORCH, Path(trace.__file__), *_WRAPPERS)), "<")
_PYTHON, _PACKAGES = str(Path(threading.__file__).parent), str(_TORCH.parent)

# Kineto announces each start and stop on stderr; 6 is above its highest level. Read at its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a capture holds.

    Attributes:
        trace: Kineto's own, in the Chrome format.
        capture: the same, read.
        spans: by the number in their annotation.
        samples: (`perf_counter` seconds, Python line) of the host.
    """

    trace: dict[str, Any]
    capture: Capture
    spans: dict[int, Span]
    samples: list[tuple[float, str]]


def record(work: Callable[[SpanNotes], object], *, is_cuda: bool, stacks: bool = False) -> Recorded:
    """Run `work` under the profiler.

    Args:
        work: is given a listener of spans, which marks them in the recording.
        stacks: mark the Python line of every call of a torch function; costs time around the device.
    """
    notes, sampler = SpanNotes(), Sampler()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    if is_cuda:
        # The first use of the device's tracer takes seconds.
        with profile(activities=activities):
            torch.zeros(1, device="cuda").add_(1)
    with ExitStack() as stack:
        recording = stack.enter_context(profile(activities=activities, record_shapes=True))
        stack.enter_context(module_notes())
        if stacks:
            stack.enter_context(LineNotes())
        _mark_clock()
        stack.enter_context(sampler)
        work(notes)
        if is_cuda:
            torch.cuda.synchronize()
    exported = _exported(recording)
    return Recorded(
        trace=exported,
        capture=read_capture(exported),
        spans=dict(notes.spans),
        samples=sampler.samples,
    )


def _mark_clock() -> None:
    # The first annotation of a recording takes longer than the others.
    for _ in range(3):
        with record_function(f"{CLOCK}{time.perf_counter_ns()}"):
            pass


def _exported(recording: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rushes-profile-") as folder:
        path = Path(folder) / "trace.json"
        recording.export_chrome_trace(str(path))
        text = path.read_text(encoding="utf-8", errors="replace")
    exported: dict[str, Any] = json.loads(text, strict=False)
    return exported


@dataclass(slots=True, kw_only=True)
class SpanNotes:
    """A listener that annotates the spans of its thread in the recording."""

    spans: dict[int, Span] = field(default_factory=dict)
    _thread: int = field(default_factory=threading.get_ident)
    _open: list[Any] = field(default_factory=list)

    def opened(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if span.thread == self._thread and not span.is_event:
            number = len(self.spans)
            self.spans[number] = span
            self._open.append(_entered(f"{SPAN}{number}"))

    def closed(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if span.thread == self._thread and not span.is_event and self._open:
            self._open.pop().__exit__(None, None, None)


def _entered(name: str) -> Any:
    note: Any = record_function(name)
    note.__enter__()
    return note


@contextmanager
def module_notes() -> Iterator[None]:
    """Annotate every call of every module, by its name below the module that was called first."""
    names: dict[int, str] = {}
    kept: list[nn.Module] = []  # so that no other module gets the identity of one that is gone
    open_notes: list[Any] = []

    def before(module: nn.Module, args: Any) -> None:
        if id(module) not in names:
            kept.append(module)
            names.update({id(child): name for name, child in module.named_modules()})
        open_notes.append(_entered(f"{MODULE}{names[id(module)]}|{type(module).__name__}"))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        open_notes.pop().__exit__(None, None, None)

    handles = (
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class LineNotes(TorchFunctionMode):
    """Annotates every call of a torch function with the Python line that makes it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with record_function(f"{LINE}{line_of(sys._getframe(1))}"):
            return func(*args, **(kwargs or {}))


def line_of(frame: FrameType | None) -> str:
    """`file:number` of the innermost frame that is neither torch's, nor Python's own, nor opens spans."""
    while frame is not None:
        file = frame.f_code.co_filename
        is_python = file.startswith(_PYTHON) and not file.startswith(_PACKAGES)
        if not is_python and not file.startswith(_SKIPPED):
            return f"{'/'.join(file.split('/')[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Sampler:
    """A context manager that looks every millisecond where the thread that made it is."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, str]] = []
        self._watched = threading.get_ident()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(SAMPLE_S):
            frame = sys._current_frames().get(self._watched)
            self.samples.append((time.perf_counter(), line_of(frame)))
