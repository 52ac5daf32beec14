"""What importing takes, wherever in a block it happens."""

from __future__ import annotations

import builtins
import importlib
import threading
import time
from types import TracebackType
from typing import Any


class ImportClock:
    """A context manager that counts the time that its thread spends in imports, also of code that imports
    when it is first called, as torch's and transformers'. An import within an import counts once.

    Attributes:
        seconds: so far, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread = threading.get_ident()
        self._depth = 0

    def __enter__(self) -> ImportClock:
        self._import, self._import_module = builtins.__import__, importlib.import_module
        builtins.__import__ = self._timed(self._import)
        importlib.import_module = self._timed(self._import_module)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        builtins.__import__, importlib.import_module = self._import, self._import_module

    def _timed(self, imports: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth or threading.get_ident() != self._thread:
                return imports(*args, **kwargs)
            self._depth = 1
            begin = time.monotonic()
            try:
                return imports(*args, **kwargs)
            finally:
                self.seconds += time.monotonic() - begin
                self._depth = 0

        return timed
