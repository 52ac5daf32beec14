"""Weights from disk into a model built on meta: strict, piece by piece, straight to the device.

This is the one border where exceptions of safetensors, pickle and the file system become `CheckpointError`.
"""

from __future__ import annotations

import pickle
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rushes.errors import CheckpointError, did_you_mean
from rushes.models.at_rest import dequantize
from rushes.models.base import Source, Sources
from rushes.models.headers import TensorHeader, read_headers
from rushes.models.staging import Stager

M = TypeVar("M", bound=nn.Module)

SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
AT_REST = {"I8": "int8", "U8": "int4"}
"""Quantised forms that `rushes.models.at_rest` describes, by safetensors dtype name."""
CPU = torch.device("cpu")
NUM_READERS = 4
LOADABLE = frozenset(SAFETENSORS_NAMES.values())


class WeightStore(Protocol):
    """Tensors by name: what they are, and the tensors themselves one at a time."""

    headers: Mapping[str, TensorHeader]

    def read(self, name: str) -> Tensor:
        """The stored tensor."""
        ...


class SafetensorsStore:
    """Safetensors files, read straight to a device."""

    def __init__(self, files: Sequence[Path], device: torch.device, stack: ExitStack) -> None:
        self.headers: Mapping[str, TensorHeader] = read_headers(tuple(files))
        self._open = {
            file: stack.enter_context(safe_open(str(file), framework="pt", device=str(device)))
            for file in files
        }

    def read(self, name: str) -> Tensor:
        """The stored tensor, on the device."""
        tensor: Tensor = self._open[self.headers[name].file].get_tensor(name)
        return tensor


class PickleStore:
    """A `.pth` file: tensors only, nothing in it is executed; mapped, so that a tensor is read when used."""

    def __init__(self, file: Path) -> None:
        self._tensors = _load_pickle(file)
        self.headers: Mapping[str, TensorHeader] = {
            name: TensorHeader(
                dtype=SAFETENSORS_NAMES.get(tensor.dtype, str(tensor.dtype)),
                stored_shape=tuple(tensor.shape),
                file=file,
            )
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """The stored tensor, on the CPU."""
        return self._tensors[name]


def _load_pickle(file: Path) -> dict[str, Tensor]:
    """Mapping is possible only for the zip format that `torch.save` has written since 2020."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{file}: damaged, or holds more than tensors ({reason})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file}: expected a mapping of names to tensors")
    return content


@contextmanager
def open_store(files: Sequence[Path], device: torch.device) -> Iterator[WeightStore]:
    """Open one `.pth` file or the safetensors files of one network; closed on exit.

    Raises:
        CheckpointError: a file is damaged, truncated or missing.
    """
    with ExitStack() as stack:
        try:
            if len(files) == 1 and files[0].suffix == ".pth":
                yield PickleStore(files[0])
            else:
                yield SafetensorsStore(files, device, stack)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{files[0].parent}: weights cannot be read ({error})") from error


def load_weights(
    model: M,
    files: Sequence[Path],
    sources: Sources,
    keep_float32: Callable[[str], bool],
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    ignore: Collection[str] = (),
    num_readers: int | None = None,
    on_allocated: Callable[[], None] = lambda: None,
) -> M:
    """Fill a model that was built on meta; every tensor must be there, none may be left over.

    Parameters are assembled one by one, so memory peaks at the model plus one parameter. A tensor `X` stored
    as int8 or int4 comes with `X.scale` (see `rushes.models.at_rest`).

    Args:
        model: on meta; its parameters are replaced.
        files: one `.pth`, or safetensors files.
        sources: where each parameter of `model` comes from.
        keep_float32: names of ours that stay float32 whatever `dtype` is.
        ignore: stored names that are known to be superfluous.
        num_readers: threads that read and copy (see `rushes.models.staging`), into memory that is taken at
            once; 0 takes it tensor by tensor, and maps what needs no cast. None: 4 for a GPU, else 0.
        on_allocated: called when the names are right and, with readers, all memory of the device is taken.

    Returns:
        The same model on `device`, in eval mode, without gradients.

    Raises:
        CheckpointError: names the missing, unexpected or misshapen tensor, its file and the nearest name.
    """
    place = torch.device(device)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes.keys() == sources.keys(), "sources and model disagree on the parameter names"
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - shapes.keys()
    dtypes = {name: torch.float32 if keep_float32(name) else dtype for name in sources}
    readers = (NUM_READERS if place.type == "cuda" else 0) if num_readers is None else num_readers
    with open_store(files, CPU if readers else place) as store:
        _check_names(store.headers, sources, ignore, files)
        for name, source in sources.items():
            _check_shape(store.headers, source, shapes[name])
        if readers:
            state = {name: torch.empty(shapes[name], dtype=dtypes[name], device=place) for name in sources}
            on_allocated()
            _fill(store, sources, state, place, readers)
        else:
            on_allocated()
            state = {
                name: _assemble(store, source, shapes[name], dtypes[name], place)
                for name, source in sources.items()
            }
    # strict=False: tied parameters have a second name, which their owner ties again
    model.load_state_dict(state, assign=True, strict=False)
    unfilled = {name for name, tensor in _tensors(model) if tensor.is_meta} - tied
    assert not unfilled, f"nothing fills {sorted(unfilled)}, which stay on meta"
    return model.eval().requires_grad_(False)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_names(
    headers: Mapping[str, TensorHeader], sources: Sources, ignore: Collection[str], files: Sequence[Path]
) -> None:
    wanted = {name for source in sources.values() for name in source.names}
    spare = [name for name in headers if name not in wanted and not _is_scale(name, headers)]
    unexpected = [name for name in spare if name not in ignore]
    where = files[0].name if len(files) == 1 else f"{files[0].parent.name}/ ({len(files)} files)"
    for name in sorted(wanted - headers.keys()):
        raise CheckpointError(f"{where}: tensor {name!r} is missing{did_you_mean(name, spare or headers)}")
    for name in unexpected:
        file = headers[name].file.name
        raise CheckpointError(f"{file}: unexpected tensor {name!r}{did_you_mean(name, wanted)}")
    for name in wanted:
        _check_dtype(name, headers)


def _is_scale(name: str, headers: Mapping[str, TensorHeader]) -> bool:
    owner = headers.get(name.removesuffix(".scale"))
    return name.endswith(".scale") and owner is not None and owner.dtype in AT_REST


def _check_dtype(name: str, headers: Mapping[str, TensorHeader]) -> None:
    header = headers[name]
    if header.dtype not in LOADABLE:
        raise CheckpointError(
            f"{header.file.name}: tensor {name!r} is stored as {header.dtype};"
            f" one of {', '.join(sorted(LOADABLE))} is needed"
        )
    if header.dtype in AT_REST and f"{name}.scale" not in headers:
        kind = AT_REST[header.dtype]
        where, scale = header.file.name, f"{name}.scale"
        raise CheckpointError(f"{where}: {kind} tensor {name!r} lacks its scale {scale!r}")


def _check_shape(headers: Mapping[str, TensorHeader], source: Source, shape: tuple[int, ...]) -> None:
    """A reshaped parameter must have as many values, a joined one the rows of its pieces."""
    pieces = [headers[name] for name in source.names]
    if source.reshape is not None:
        is_right = sum(piece.num_elements for piece in pieces) == _count(shape)
    elif len(pieces) == 1:
        is_right = pieces[0].shape == shape
    else:
        widths = {piece.shape[1:] for piece in pieces}
        is_right = widths == {shape[1:]} and sum(piece.shape[0] for piece in pieces) == shape[0]
    if not is_right:
        found = " + ".join(f"{name} {list(headers[name].shape)}" for name in source.names)
        raise CheckpointError(
            f"{pieces[0].file.name}: wrong shape: {found}; config.json asks for {list(shape)}"
            + (" when joined" if len(pieces) > 1 else "")
        )


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _fill(
    store: WeightStore, sources: Sources, state: Mapping[str, Tensor], device: torch.device, num_readers: int
) -> None:
    """Read every parameter into its place, the largest first, by `num_readers` threads."""
    names = sorted(sources, key=lambda name: state[name].nbytes, reverse=True)
    waiting = iter(names)
    lock = threading.Lock()

    def read() -> None:
        stager = Stager(device)
        while True:
            with lock:
                name = next(waiting, None)
            if name is None:
                break
            start, target = 0, state[name]
            for stored in sources[name].names:
                piece = _read(store, stored)
                if len(sources[name].names) == 1:
                    stager.copy(target, piece.reshape(target.shape))
                else:
                    stager.copy(target[start : start + len(piece)], piece)
                    start += len(piece)
        stager.finish()

    with ThreadPoolExecutor(num_readers, thread_name_prefix="weights") as pool:
        for reader in [pool.submit(read) for _ in range(num_readers)]:
            reader.result()


def _assemble(
    store: WeightStore, source: Source, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if len(source.names) == 1:
        return _read(store, source.names[0]).to(device=device, dtype=dtype).reshape(shape)
    joined = torch.empty(shape, dtype=dtype, device=device)
    start = 0
    for name in source.names:
        piece = _read(store, name)
        joined[start : start + len(piece)].copy_(piece)
        start += len(piece)
    return joined


def _read(store: WeightStore, name: str) -> Tensor:
    tensor = store.read(name)
    if tensor.dtype not in (torch.int8, torch.uint8):
        return tensor
    return dequantize(tensor, store.read(f"{name}.scale").to(tensor.device))
