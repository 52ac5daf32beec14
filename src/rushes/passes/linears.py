"""Which linear layers of a transformer a precision pass replaces, and the proof that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from rushes.errors import ConfigError, UnknownName
from rushes.models.expert_pair import num_bytes
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block, FeedForward
from rushes.passes.blocks import changed_blocks, transformer

TARGETS = {
    "ffn": ("ffn.up", "ffn.down"),
    "qkv": ("self_attn.qkv",),
    "attn_out": ("self_attn.out",),
    "cross_q": ("cross_attn.q",),
    "cross_out": ("cross_attn.out",),
}
"""Names a plan may list, in the order in which published work found them safe, with their modules.

The rest stays as it is: embeddings, time path, norms, head and router are float32 islands, the keys and
values of a text are computed once a prompt, and token experts are grouped matmuls.
"""

ALL_TARGETS = tuple(TARGETS)


def check_targets(where: str, targets: tuple[str, ...]) -> None:
    """Raises `ConfigError` or `UnknownName` for a list that no network could have."""
    if not targets:
        raise ConfigError(f"{where}: targets is empty, so nothing would change; choose from {_choices()}")
    for target in targets:
        if target not in TARGETS:
            raise UnknownName("targets", target, TARGETS)


def check_sizes(where: str, linear: nn.Linear, multiple: int) -> None:
    """Raises `ConfigError` for a layer whose inputs or outputs are no multiple of what a matmul takes."""
    for side, size in (("in", linear.in_features), ("out", linear.out_features)):
        if size % multiple:
            raise ConfigError(f"{where}: {size} {side}_features are no multiple of {multiple}")


def replace_linears(
    where: str,
    network: nn.Module,
    targets: tuple[str, ...],
    keep_blocks: tuple[int, ...],
    make: Callable[[str, nn.Linear], nn.Module],
) -> Wan:
    """Put `make(name, linear)` in the place of every linear layer that is targeted.

    Args:
        where: begins every error message.
        keep_blocks: blocks that stay as they are; -1 is the last one.

    Raises:
        ConfigError: another network, a block that is not there, a target that no block has, nothing replaced,
            or a network that did not shrink.
    """
    wan = transformer(where, network)
    blocks = changed_blocks(where, wan, keep_blocks)
    for target in targets:
        if target == "ffn" and not any(isinstance(block.ffn, FeedForward) for _, block in blocks):
            others = ", ".join(name for name in TARGETS if name != "ffn")
            raise ConfigError(
                f"{where}: target ffn: the FFN of every block is token experts; choose from {others}"
            )
    before = num_bytes(wan)
    for name, parent, attribute, linear in list(linears_of(blocks, targets)):
        setattr(parent, attribute, make(name, linear))
    if num_bytes(wan) >= before:
        raise ConfigError(f"{where}: {before} bytes of weights became {num_bytes(wan)}, no fewer")
    return wan


def linears_of(
    blocks: list[tuple[int, Block]], targets: tuple[str, ...]
) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    """Name, parent, attribute and layer of each target; a layer that another pass replaced is an error."""
    for number, block in blocks:
        for path in (path for target in targets for path in TARGETS[target]):
            part, attribute = path.split(".")
            parent = getattr(block, part)
            if part == "ffn" and not isinstance(parent, FeedForward):
                continue
            linear = getattr(parent, attribute)
            name = f"blocks.{number}.{path}"
            if not isinstance(linear, nn.Linear):
                raise ConfigError(
                    f"{name} is a {type(linear).__name__} already: fp8-linears and int8-linears"
                    " can share a plan only with different targets"
                )
            yield name, parent, attribute, linear


def _choices() -> str:
    return ", ".join(TARGETS)
