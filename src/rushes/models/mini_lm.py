"""The embedded toy's text encoder: the six layers of all-MiniLM-L6-v2 (a BERT), as plain PyTorch.

Written out rather than taken from transformers because importing that library's BERT alone takes about four
seconds, most of what the toy may take to load.

Source: Wang et al., MiniLM, arXiv:2002.10957; the weights are Apache-2.0 (see training/README.md).
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.errors import CheckpointError
from rushes.models.base import Source
from rushes.models.wan_blocks import random_weight
from rushes.trace import traced


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniLMConfig:
    """Shape of the encoder; `text_len` is the number of tokens a prompt is cut or zero padded to."""

    vocab_size: int
    dim: int = 384
    num_layers: int = 6
    num_heads: int = 12
    ffn_dim: int = 1536
    text_len: int = 64
    eps: float = 1e-12


class MiniLMLayer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: MiniLMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.norm1 = nn.LayerNorm(config.dim, config.eps)
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.dim)
        self.norm2 = nn.LayerNorm(config.dim, config.eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, L, D]; mask bool [B, 1, 1, L], True where a token may be seen."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(seen.transpose(1, 2).flatten(2)))
        return cast(Tensor, self.norm2(x + self.down(F.gelu(self.up(x)))))


def _embedding(rows: int, dim: int) -> nn.Embedding:
    """Given, not drawn by torch: on the meta device that would load its compiler (see `random_weight`)."""
    made: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        random_weight(rows, dim), freeze=False
    )
    return made


class MiniLM(nn.Module):
    """Token ids to token states."""

    def __init__(self, config: MiniLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _embedding(config.vocab_size, config.dim)
        self.position = _embedding(config.text_len, config.dim)
        self.embed_norm = nn.LayerNorm(config.dim, config.eps)
        self.layers = nn.ModuleList(MiniLMLayer(config) for _ in range(config.num_layers))

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of prompts.

        Args:
            ids: int64 [B, L], anything behind a prompt's end.
            lengths: int64 [B], tokens of each prompt, 1..L.

        Returns:
            states [B, L, D], zero behind each prompt's end, and their mean over the prompt [B, D].
        """
        x = self.embed_norm(self.embed(ids) + self.position.weight[: ids.shape[1]])
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        for layer in self.layers:
            x = layer(x, inside[:, None, None])
        states = x * inside[..., None]
        return states, states.sum(1) / lengths[:, None]


def sources(config: MiniLMConfig) -> dict[str, Source]:
    """Our parameter names in the checkpoint layout of transformers' `BertModel`."""
    table = {
        "embed.weight": Source(names=("embeddings.word_embeddings.weight",)),
        "position.weight": Source(names=("embeddings.position_embeddings.weight",)),
    }
    parts: dict[str, tuple[str, ...]] = {"embed_norm": ("embeddings.LayerNorm",)}
    for n in range(config.num_layers):
        theirs = f"encoder.layer.{n}."
        attention = theirs + "attention."
        parts |= {
            f"layers.{n}.qkv": tuple(f"{attention}self.{name}" for name in ("query", "key", "value")),
            f"layers.{n}.out": (attention + "output.dense",),
            f"layers.{n}.norm1": (attention + "output.LayerNorm",),
            f"layers.{n}.up": (theirs + "intermediate.dense",),
            f"layers.{n}.down": (theirs + "output.dense",),
            f"layers.{n}.norm2": (theirs + "output.LayerNorm",),
        }
    for ours, names in parts.items():
        for leaf in ("weight", "bias"):
            table[f"{ours}.{leaf}"] = Source(names=tuple(f"{name}.{leaf}" for name in names))
    return table


def config_from_dict(raw: Mapping[str, int | float | str]) -> MiniLMConfig:
    """Read the `text_encoder/config.json` of a folder whose text encoder is a BERT."""
    if raw.get("model_type") != "bert":
        raise CheckpointError(f"text_encoder: model_type {raw.get('model_type')!r} is not 'bert'")
    return MiniLMConfig(
        vocab_size=int(raw["vocab_size"]),
        dim=int(raw["hidden_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=int(raw["num_attention_heads"]),
        ffn_dim=int(raw["intermediate_size"]),
        text_len=int(raw["max_position_embeddings"]),
        eps=float(raw["layer_norm_eps"]),
    )


TOKENIZER = "tokenizer.json.xz"


class MiniLMTokenizer:
    """Prompts to token ids, cut to `text_len`.

    Args:
        path: the library's JSON, compressed.

    Raises:
        CheckpointError: missing or damaged.
    """

    def __init__(self, path: Path, text_len: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(lzma.decompress(path.read_bytes()).decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise CheckpointError(f"tokenizer {path}: cannot be read ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(text_len)

    @traced("tokenize")
    def __call__(self, prompts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(prompts)]
