"""Files that are locked while their process lives, so that a dead one's can be told."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int) -> int | None:
    """None when somebody holds the lock, or renamed or removed the file before it was locked. Raises
    `OSError`."""
    file = os.open(path, flags, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.stat(path)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def remove_if_dead(path: Path) -> None:
    """Raises `OSError`."""
    file = open_locked(path, os.O_RDONLY)
    if file is not None:
        path.unlink()
        os.close(file)
