"""MiniLM's embeddings of short texts, each made once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.text_encoder import source_folder

BATCH = 256
MAX_TOKENS = 64


class Sentences:
    """Mean states of texts, of length 1."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = source_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, 384]."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            self._known.update(zip(part, self._embedded(part), strict=True))
        return np.stack([self._known[text] for text in texts])

    @torch.no_grad()
    def _embedded(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        mask = tokens.attention_mask[..., None].float()
        mean = (self._model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        found: NDArray[np.float32] = (mean / mean.norm(dim=1, keepdim=True)).numpy()
        return found
