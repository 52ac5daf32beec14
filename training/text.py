"""Captions as the transformer reads them, in batches: the shipped text encoder's states, zero padded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rushes.models import mini_lm
from rushes.models.headers import read_json
from rushes.models.text import clean_prompt
from rushes.models.weights import load_weights

TOY = Path("src/rushes/assets/toy")


class TextFeatures:
    """The frozen text encoder on a device."""

    def __init__(self, device: torch.device) -> None:
        config = mini_lm.config_from_dict(read_json(TOY / "text_encoder/config.json"))
        self._tokenizer = mini_lm.MiniLMTokenizer(TOY / "tokenizer/tokenizer.json", config.text_len)
        with torch.device("meta"):
            model = mini_lm.MiniLM(config)
        files = [TOY / "text_encoder/model.safetensors"]
        table = mini_lm.sources(config)
        self.model = load_weights(model, files, table, lambda name: False, torch.float32, device)

    def tokenize(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """int32 ids [N, text_len] and lengths [N], on the device."""
        rows = self._tokenizer([clean_prompt(caption) for caption in captions])
        ids = torch.zeros(len(rows), self.model.config.text_len, dtype=torch.int32)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        device = self.model.embed.weight.device
        return ids.to(device), torch.tensor(
            [len(tokens) for tokens in rows], dtype=torch.int32, device=device
        )

    @torch.no_grad()
    def encode(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """float32 states [B, text_len, D] and their mean [B, D]; int64 ids and lengths."""
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
            states, pooled = self.model(ids, lengths)
        return states.float(), pooled.float()
