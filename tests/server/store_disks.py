"""A disk that is soon full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[list[str]]:
    """The beginning of a command line for which `folder` is a tmpfs of this size, in a name space of its
    own. Skips the test where the system does not let anybody have one."""
    folder.mkdir(parents=True)
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={size} none {folder}"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this system gives no name space with a tmpfs")
    yield [*unshare, f'{mount} && exec "$@"', "sh"]
