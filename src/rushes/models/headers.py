"""What weight files say of themselves: names, shapes and dtypes, read without torch and without the data."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes.errors import CheckpointError

BYTES_OF = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
}
"""Bytes of one element by safetensors dtype name."""

SINGLE_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""Names that diffusers, transformers and the original repository give an unsharded file."""

MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """One stored tensor: safetensors dtype name, shape as stored and the file it is in."""

    dtype: str
    stored_shape: tuple[int, ...]
    file: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values: a uint8 tensor holds two 4-bit numbers a byte."""
        if self.dtype != "U8" or not self.stored_shape:
            return self.stored_shape
        return (*self.stored_shape[:-1], 2 * self.stored_shape[-1])

    @property
    def num_elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The weight files of one network: those on disk, and shards that the index names and the disk lacks."""

    present: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.present)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises `CheckpointError` for a file that cannot be read or is not one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def find_weights(folder: Path) -> WeightFiles:
    """The safetensors files of a network's folder: the shards of its index, else its only file.

    The names without a variant come first; another variant ("fp16") is taken where it is alone.

    Raises `CheckpointError` when several files lie there and nothing says which belong together.
    """
    # A variant's index: X.safetensors.index.fp16.json by diffusers, X.fp16.safetensors.index.json by others.
    indices = sorted(folder.glob("*.safetensors.index*.json"))
    canonical = [file for file in indices if file.name.removesuffix(".index.json") in SINGLE_FILES]
    if canonical:
        return _indexed(canonical[0])
    files = [folder / name for name in SINGLE_FILES if (folder / name).is_file()]
    if not files:
        sharded = {shard for index in indices for shard in _shards(index)}
        files = indices + [file for file in sorted(folder.glob("*.safetensors")) if file not in sharded]
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise CheckpointError(
            f"{folder}: several weight files ({names}) and no {SINGLE_FILES[0]}.index.json; keep one"
        )
    return _indexed(files[0]) if files and files[0] in indices else WeightFiles(present=tuple(files))


def _indexed(index: Path) -> WeightFiles:
    shards = _shards(index)
    present = tuple(shard for shard in shards if shard.is_file())
    return WeightFiles(present=present, missing=tuple(shard for shard in shards if shard not in present))


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: holds no weight_map")
    for name in weight_map.values():
        if not _is_bare_name(name):
            raise CheckpointError(f"{index}: weight_map names {name!r}, which is no file name in its folder")
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def _is_bare_name(name: object) -> bool:
    """Whether it names a file in the folder itself, on any system."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def pickled_bytes(file: Path) -> int:
    """Bytes of tensor data in a `.pth` file, which `torch.save` writes as a zip with an entry per storage."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)


def read_headers(files: tuple[Path, ...]) -> dict[str, TensorHeader]:
    """All tensors of safetensors files by name. Raises `CheckpointError` for a damaged or truncated file and
    for a tensor that two files hold."""
    headers: dict[str, TensorHeader] = {}
    for file in files:
        for name, header in _read_header(file).items():
            if name in headers:
                raise CheckpointError(f"tensor {name!r} is in both {headers[name].file.name} and {file.name}")
            headers[name] = header
    return headers


def _read_header(file: Path) -> dict[str, TensorHeader]:
    """Layout of a safetensors file: u64 header length, JSON header, data."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{file}: truncated or not a safetensors file ({size} bytes)")
            raw = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged safetensors header ({error})") from error
    entries = _entries(file, raw)
    expected = 8 + length + max((end for _, _, end in entries.values()), default=0)
    if size != expected:
        raise CheckpointError(f"{file}: truncated, {size} bytes of {expected}; copy or download it again")
    return {
        name: TensorHeader(dtype=dtype, stored_shape=shape, file=file)
        for name, (dtype, shape, _) in entries.items()
    }


def _entries(file: Path, raw: Any) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Dtype name, shape and end offset of each tensor in a safetensors header."""
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: damaged safetensors header ({type(raw).__name__}, not an object)")
    return {name: _entry(file, name, entry) for name, entry in raw.items() if name != "__metadata__"}


def _entry(file: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]}:
            if all(type(number) is int and number >= 0 for number in (*shape, start, end)):
                return dtype, tuple(shape), end
    raise CheckpointError(f"{file}: damaged safetensors header (tensor {name!r})")
