"""Engines that run an ONNX file on a CPU, behind one signature."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushes.errors import ConfigError, did_you_mean

EngineName = Literal["openvino", "onnxruntime"]
ENGINES: tuple[str, ...] = get_args(EngineName)

Runner = Callable[[Sequence[Tensor]], list[Tensor]]
"""Inputs in the graph's order, any strides -> outputs of their own memory. Threads may call it at once."""


def check_engine(where: str, engine: str, num_threads: int) -> None:
    """Raises `ConfigError`: no such engine, not installed, or not a number of threads."""
    if engine not in ENGINES:
        hint = did_you_mean(engine, ENGINES)
        raise ConfigError(f"{where}: engine {engine!r} is none of {', '.join(ENGINES)}{hint}")
    if num_threads < 0:
        raise ConfigError(
            f"{where}: num_threads is {num_threads}; needs at least 1, or 0 for torch's own number"
        )
    if importlib.util.find_spec(engine) is None:
        raise ConfigError(f"{where}: {engine} is not installed: pip install 'rushes[export]'")


def open_engine(engine: str, file: Path, num_threads: int) -> Runner:
    """What runs the graph of `file` in float32, compiled for this CPU. The file is not needed afterwards."""
    threads = num_threads or torch.get_num_threads()
    return _OpenVino(file, threads) if engine == "openvino" else _OnnxRuntime(file, threads)


class _OpenVino:
    def __init__(self, file: Path, num_threads: int) -> None:
        import openvino

        config = {
            # Its default is bfloat16 wherever the chip has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        # Mapped weights would keep the file open.
        core.set_property({"ENABLE_MMAP": False})
        self._compiled = core.compile_model(core.read_model(file), "CPU", config)
        found = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        assert found == "f32", f"it runs {found}"
        self._of_thread = threading.local()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        # A request holds intermediate values and runs one call at a time.
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        arrays = [_array(one) for one in inputs]
        found = self._of_thread.request.infer(arrays, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(one) for one in found.to_tuple()]


class _OnnxRuntime:
    def __init__(self, file: Path, num_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        # Threads that wait for work by spinning would take the cores of everything beside the engine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = dict(zip(self._names, map(_array, inputs), strict=True))
        return [torch.from_numpy(one) for one in self._session.run(None, arrays)]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
