"""Products with weights that oneDNN has packed for this CPU's kernels; a plain weight it packs at every call.

torch.compile takes each as one operator. Its own packing, freezing, is lost with the process that compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

_OPERATORS = torch.library.Library("rushes", "FRAGMENT")  # type: ignore[no-untyped-call]


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies such weights here."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack_linear(weight: Tensor) -> Tensor:
    """[N, K], for `packed_linear`."""
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))


def pack_conv(weight: Tensor, padding: Sequence[int], size: Sequence[int] = ()) -> Tensor:
    """[N, C, *kernel], for `packed_conv`.

    Args:
        size: [B, C, *size] of an input as it will come; without one oneDNN packs many anew at each call.
    """
    ones = [1] * len(padding)
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    return cast(Tensor, reorder(weight.detach().contiguous(), list(padding), ones, ones, 1, list(size)))


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """x [..., K] -> [..., N]: `F.linear`, then the tanh GELU for "gelu"."""
    return cast(Tensor, torch.ops.rushes.packed_linear.default(x, weight, bias, activation))


def packed_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """x [B, *size, C] -> [B, *size, N]: `F.conv2d` or `F.conv3d` of stride 1, channels last."""
    return cast(Tensor, torch.ops.rushes.packed_conv.default(x, weight, bias, list(padding)))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, activation, [], "tanh"))


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    ones = [1] * len(padding)
    run = torch.ops.mkldnn._convolution_pointwise.default
    out: Tensor = run(x.movedim(-1, 1), weight, bias, padding, ones, ones, 1, "none", [], "")
    return out.movedim(1, -1).contiguous()


def _conv_shape(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    sizes = zip(x.shape[1:-1], padding, weight.shape[2:], strict=True)
    return x.new_empty(x.shape[0], *(size + 2 * pad - taps + 1 for size, pad, taps in sizes), weight.shape[0])


def _define(name: str, schema: str, run: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    _OPERATORS.define(f"{name}{schema} -> Tensor")  # type: ignore[no-untyped-call]
    # Packed tensors are a kind of their own to the dispatcher.
    _OPERATORS.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"rushes::{name}", shape, lib=_OPERATORS)


_define("packed_linear", "(Tensor x, Tensor weight, Tensor? bias, str activation)", _linear, _linear_shape)
_define("packed_conv", "(Tensor x, Tensor weight, Tensor? bias, int[] padding)", _conv, _conv_shape)
