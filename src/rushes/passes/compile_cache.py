"""Compiled code on disk, so that a process compiles nothing that an earlier one has compiled.

A file holds what torch calls a mega-cache (`torch.compiler.save_cache_artifacts`), behind a digest of it. Its
name says all that decides whether it is right: our code, torch and Triton, the device, and what the caller
adds. A file that is damaged, or that torch will not read, counts as none. Loading one runs code from it, so
the folder must be the user's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import tempfile
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

log = logging.getLogger(__name__)

FORMAT = b"rushes compiled code 1\n"
_DIGEST = 16
_SOURCES = ("models", "ops", "passes")
"""Packages whose code is compiled, or decides how."""


class CompileCache:
    """A folder of compiled code; it need not exist yet.

    Args:
        folder: one file for each key is written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, device: torch.device, *more: object) -> bool:
        """Give torch what was compiled for this key; whether there was anything."""
        file = self.file(device, *more)
        try:
            content = file.read_bytes()
        except OSError:
            return False
        payload = content[len(FORMAT) + _DIGEST :]
        if content[: -len(payload) or None] != FORMAT + _digest(payload):
            log.warning("%s: damaged, compiled anew", file)
            return False
        return _load(file, payload)

    def save(self, device: torch.device, *more: object) -> None:
        """Keep all that this process has compiled under this key. A folder that cannot be written to costs
        the next process its time and nothing else."""
        artifacts = torch.compiler.save_cache_artifacts()
        if artifacts is None:
            return
        payload, _ = artifacts
        try:
            self._write(self.file(device, *more), FORMAT + _digest(payload) + payload)
        except OSError as error:
            log.warning("%s: compiled code cannot be kept (%s)", self.folder, error.strerror)

    def file(self, device: torch.device, *more: object) -> Path:
        """Where the code of this key lies."""
        key = json.dumps([_code(), *_versions(), *_machine(device), *map(str, more)]).encode()
        return self.folder / f"{blake2b(key, digest_size=16).hexdigest()}.compiled"

    def _write(self, file: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.replace(name, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def _load(file: Path, payload: bytes) -> bool:
    try:
        return torch.compiler.load_cache_artifacts(payload) is not None
    except Exception as error:  # torch promises nothing about artifacts that it does not like
        log.warning("%s: not taken (%s: %s), compiled anew", file, type(error).__name__, error)
        return False


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=_DIGEST).digest()


@cache
def _code() -> str:
    """A digest of the sources that compiled code is made from."""
    digest = blake2b(digest_size=16)
    package = Path(__file__).parents[1]
    for file in sorted(file for name in _SOURCES for file in (package / name).glob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return torch.__version__, triton, platform.python_version()


def _machine(device: torch.device) -> tuple[str, ...]:
    if device.type != "cuda":
        return device.type, platform.machine(), torch.backends.cpu.get_cpu_capability()
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"{major}.{minor}", str(torch.version.cuda)
