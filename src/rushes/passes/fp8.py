"""Linear layers in 8-bit floating point: half the weights' memory and, on Hopper, twice the matmul rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.wan_blocks import GeluLinear
from rushes.ops.fp8 import ALIGNMENT, CODE, check_fp8_device, quantize_rows, quantize_rows_in_one, scaled_mm
from rushes.passes.base import Part
from rushes.passes.linears import ALL_TARGETS, check_sizes, check_targets, replace_linears


class Fp8Linear(nn.Module):
    """x W^T + b with W stored as float8 codes and x quantised row by row on the way in.

    Codes, scales and bias are parameters without gradient, so whatever copies or swaps a network's weights
    takes them along.

    Attributes:
        weight: codes [out, in].
        scale: float32 [out, 1].
        bias: [out] in `dtype`, or None.
        dtype: of the result, that of the layer which this one replaces.
    """

    def __init__(self, linear: nn.Linear, *, use_fast_accum: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.use_fast_accum = linear.weight.dtype, use_fast_accum
        codes, scale = quantize_rows(linear.weight.detach())
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = (
            None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        )

    def codes_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [M, in] and scales [M, 1] of x [M, in], for the compiler to fuse with what made x."""
        return quantize_rows(x)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] of any floating dtype -> [..., out]."""
        codes, scale = self.codes_of(x.flatten(0, -2))
        out = scaled_mm(
            codes,
            self.weight,
            scale,
            self.scale,
            self.bias,
            self.dtype,
            use_fast_accum=self.use_fast_accum,
        )
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """As `nn.Linear` prints."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


class OpaqueFp8Linear(Fp8Linear):
    """Its input comes from an operator that fuses with nothing, so quantising has a kernel of its own."""

    def codes_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Fp8Linear`."""
        return quantize_rows_in_one(x)


class GeluFp8Linear(Fp8Linear, GeluLinear):
    """GELU of the input, its quantisation in the same kernel, and the product."""

    def codes_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Fp8Linear`."""
        return quantize_rows_in_one(x, has_gelu=True)


KINDS: Mapping[str, type[Fp8Linear]] = MappingProxyType(
    {"ffn.down": GeluFp8Linear, "self_attn.out": OpaqueFp8Linear, "cross_attn.out": OpaqueFp8Linear}
)
"""By the end of a layer's name; of the others quantisation is fused into the norm before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Linears:
    """Run the blocks' linear layers on float8 codes, weights and activations scaled row by row.

    Attributes:
        targets: names of `rushes.passes.linears.TARGETS`.
        keep_blocks: blocks left in the network's own dtype; -1 is the last.
        use_fast_accum: see `rushes.ops.fp8.scaled_mm`.
        own_kernels: GELU and attention's outputs are quantised by kernels of their own; else by the plain
            operators, which are left to the compiler.
    """

    name: ClassVar[str] = "fp8-linears"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 20

    targets: tuple[str, ...] = ALL_TARGETS
    keep_blocks: tuple[int, ...] = ()
    use_fast_accum: bool = True
    own_kernels: bool = True

    def __post_init__(self) -> None:
        check_targets(f"pass {self.name}", self.targets)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        return replace_linears(f"pass {self.name}", network, self.targets, self.keep_blocks, self._replaced)

    def _replaced(self, name: str, linear: nn.Linear) -> Fp8Linear:
        where = f"pass {self.name}: {name}"
        check_fp8_device(linear.weight.device, linear.weight.dtype, where)
        check_sizes(where, linear, ALIGNMENT)
        kind = KINDS.get(".".join(name.split(".")[-2:]), Fp8Linear) if self.own_kernels else Fp8Linear
        made = kind(linear, use_fast_accum=self.use_fast_accum)
        assert made.weight.dtype == CODE, f"{name} is stored as {made.weight.dtype}"
        if not made.scale.is_meta and not torch.isfinite(made.scale).all():
            raise ConfigError(f"{where}: some weights are not finite")
        return made
