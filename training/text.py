"""Captions as the transformer reads them, in batches: the shipped text encoder's states, zero padded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rushes.models import mini_lm
from rushes.models.headers import read_json
from rushes.models.prompts import clean_prompt
from rushes.models.weights import load_weights

TOY = Path("src/rushes/assets/toy")
CHUNK = 2048  # captions encoded at a time


class TextFeatures:
    """The frozen text encoder on a device."""

    def __init__(self, device: torch.device) -> None:
        config = mini_lm.config_from_dict(read_json(TOY / "text_encoder/config.json"))
        self._tokenizer = mini_lm.MiniLMTokenizer(TOY / "tokenizer" / mini_lm.TOKENIZER, config.text_len)
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

    @property
    def text_len(self) -> int:
        """Tokens that states are padded to."""
        return self.model.config.text_len

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """States [N, L, D], L the longest caption's tokens, zero behind each one's end, and their means
        [N, D]; bfloat16 on a GPU, else float32."""
        ids, lengths = self.tokenize(captions)
        ids = ids[:, : int(lengths.max())]
        dtype = torch.bfloat16 if ids.is_cuda else torch.float32
        states, pooled = [], []
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
            for some, ends in zip(ids.split(CHUNK), lengths.split(CHUNK), strict=True):
                found = self.model(some.long(), ends.long())
                states.append(found[0].to(dtype))
                pooled.append(found[1].to(dtype))
        return torch.cat(states), torch.cat(pooled)
