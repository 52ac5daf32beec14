"""What kind of work an operator does, from its name and the modules around it. No torch here.

Knows diffusion transformers (Wan, ours and diffusers'), the U-Net family (spatial convolutions, temporal
attention and convolution, interpolation) and video VAEs. The names of modules are those that the field uses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rushes.profiling.op_work import Dims, short

OTHER = "other"
NORM = "norm, modulation, RoPE"
NORM_VAE = "norm and activation"
COPIES = "copies"
RESAMPLE = "resample"
COMPILED_PRODUCTS = "products (compiled)"

_CROSS = re.compile(r"cross|attn2|encoder_hid")
_TEMPORAL = re.compile(r"temp(oral|_)|motion_module|temporal")
_ATTENTION = re.compile(r"attn|attention|transformer_in\b")
_FFN = re.compile(r"ffn|feedforward|feed_forward|(^|\.)(ff|mlp)(\.|\||$)")
_TOKEN_EXPERTS = re.compile(r"\|(experts|.*moe|.*mixtureofexperts)$")
_CONV_MODULE = re.compile(r"\|.*conv3d")
_RESAMPLE_OP = re.compile(
    r"upsample|interpolate|pixel_(un)?shuffle|avg_pool|max_pool|grid_sample|repeat_interleave"
)
_RESAMPLE_MODULE = re.compile(r"\|.*(upsample|downsample|resample|dupup|avgdown)")
_COPY_OPS = frozenset(
    ("to", "copy_", "clone", "contiguous", "cat", "stack", "pad", "constant_pad_nd", "reshape")
)
_COPY_OPS |= {
    "repeat",
    "roll",
    "flip",
    "_to_copy",
    "copy",
    "pin_memory",
    "fill_",
    "zero_",
    "zeros",
    "new_zeros",
}
_NORM_OP = re.compile(r"norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an operator was called.

    Attributes:
        stage, part: the row of the stage table.
        modules: `name|class` of the modules around it, outermost first.
        is_compiled: within code of torch.compile, which knows no modules and joins operators.
    """

    stage: str
    part: str
    modules: tuple[str, ...]
    is_compiled: bool = False

    @property
    def where(self) -> str:
        """The innermost module's name, block numbers as `*`; the part where there is none."""
        name = self.modules[-1].split("|")[0] if self.modules else ""
        return re.sub(r"\.\d+(?=\.|$)", ".*", name) or (
            self.modules[0].split("|")[1] if self.modules else self.part
        )


def kind_of(op: str, family: str, place: Place, image: Dims | None = None, kernel: Dims | None = None) -> str:
    """The kind of an operator, a row of the operator table within its stage.

    Args:
        op: the operator's or the kernel's name.
        family: its `OpWork.family`.
        image: shape of what a convolution reads.
        kernel: shape of its weights.
    """
    if place.stage == "text_encode":
        return "text encoder"
    if place.stage not in ("denoise", "vae_decode"):
        return place.part
    words = "/".join(place.modules).lower()
    if any(_TOKEN_EXPERTS.search(module.lower()) for module in place.modules):
        return "token experts"
    if family == "conv" and image is not None and kernel is not None:
        return _conv(image, kernel, words)
    if place.is_compiled and (family == "gemm" or "::" not in op):
        return kind_of_kernel(op, place) if family != "gemm" else COMPILED_PRODUCTS
    if not place.modules and not place.is_compiled and place.part not in _DECODER:
        return place.part
    return _by_operator(short(op), family, words, place)


def _conv(image: Dims, kernel: Dims, words: str) -> str:
    size = f"{image[-2]}x{image[-1]}"
    space = kernel[-2:]
    if len(kernel) == 5 and kernel[2] > 1 and tuple(space) == (1, 1):
        return f"temporal conv {size}"
    # Our CPU path sums one conv2d per tap in time.
    is_3d = len(kernel) == 5 or _CONV_MODULE.search(words)
    if is_3d and tuple(space) == (1, 1):
        return f"temporal conv {size}"
    return f"{'conv3d' if is_3d else 'conv2d'} {size}"


def _by_operator(op: str, family: str, words: str, place: Place) -> str:
    if family == "attention" or (_ATTENTION.search(words) and op in _ATTENTION_PARTS):
        return _attention(words, place)
    if family == "gemm":
        return _product(words, place)
    if _RESAMPLE_OP.search(op) and (op != "repeat_interleave" or place.stage == "vae_decode"):
        return RESAMPLE
    if op in _COPY_OPS:
        return RESAMPLE if _RESAMPLE_MODULE.search(words) else COPIES
    is_norm = _NORM_OP.search(op) or "norm" in words.rsplit("/", 1)[-1]
    if _FFN.search(words) and not is_norm:
        return "FFN"
    return NORM_VAE if place.stage == "vae_decode" else NORM


_DECODER = ("first latent", "other latents")
"""Parts whose operators outside of any module are the network's all the same."""

_ATTENTION_PARTS = frozenset(("bmm", "baddbmm", "softmax", "_softmax", "_safe_softmax", "masked_fill"))


def _attention(words: str, place: Place) -> str:
    if place.stage == "vae_decode":
        return "VAE attention"
    if _TEMPORAL.search(words):
        return "temporal attention"
    # The innermost one tells; a block around it may be called after both.
    own = [module for module in words.split("/") if _ATTENTION.search(module)]
    return "cross-attention" if own and _CROSS.search(own[-1]) else "self-attention"


def _product(words: str, place: Place) -> str:
    """A product with weights."""
    if place.stage == "vae_decode":
        return "pointwise products"
    if place.part == "text keys and values":
        return place.part
    if _FFN.search(words):
        return "FFN"
    if _ATTENTION.search(words):
        return "temporal attention q/k/v and out" if _TEMPORAL.search(words) else "QKV and out"
    return "embeddings and head"


def kind_of_kernel(name: str, place: Place) -> str:
    """The kind of a kernel that no operator asked for: of compiled code or of a replayed CUDA graph."""
    low = name.lower()
    for pattern, kind in _KERNELS:
        if re.search(pattern, low):
            return kind
    return place.part if place.stage not in ("denoise", "vae_decode") else OTHER


_KERNELS: Sequence[tuple[str, str]] = (
    (r"memcpy|memset", COPIES),
    # Of its own kernels torch.compile names those made from a template, which multiply, `tem`.
    (r"^triton_tem_.*(attention|sdpa)", "self-attention"),
    (r"^triton_tem_.*conv", "conv (compiled)"),
    (r"^triton_tem_", COMPILED_PRODUCTS),
    (r"^triton_", "fused elementwise (compiled)"),
    (r"flash|fmha|attention|sdpa|softmax", "self-attention"),
    (r"upsample|pixel_shuffle", RESAMPLE),
    (r"conv|implicit_gemm|nchw|nhwc|ndhwc|xmma_fprop", "conv (compiled)"),
    (r"gemm|gemv|cutlass|nvjet|cublas|splitk|_mm_|matmul", COMPILED_PRODUCTS),
    (r"catarray|copy_kernel|copy_device", COPIES),
    (r"triton_|elementwise|reduce|vectorized|norm|cub::|distribution", "fused elementwise (compiled)"),
)
