"""Text encoders: a prompt in, the token states that a transformer attends to out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rushes.errors import CheckpointError
from rushes.models.mini_lm import MiniLM, MiniLMTokenizer
from rushes.models.prompts import clean_prompt
from rushes.models.streamed import stream_from_host
from rushes.trace import span


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """An encoded prompt.

    Attributes:
        states: token states [1, L, D], zero behind the prompt's end.
        pooled: one vector for the whole prompt [1, P]; None for models that take none (all public Wan).
    """

    states: Tensor
    pooled: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.states.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


class TextEncoder(Protocol):
    """Prompts to embeddings; prompts that `clean_prompt` makes the same give the same embedding."""

    def encode(self, prompt: str) -> PromptEmbeds:
        """Encode one prompt of any length; what does not fit the encoder is cut off."""
        ...


class UMT5TextEncoder:
    """Wan's text encoder.

    Args:
        model: transformers' UMT5 encoder.
        tokenizer: transformers' tokenizer of the same folder.
        text_len: tokens that a prompt is cut or padded to.

    Attributes:
        is_streamed: the weights stay in host memory (`rushes.models.streamed`).
    """

    def __init__(self, model: nn.Module, tokenizer: Any, text_len: int = 512) -> None:
        self.model = model
        self.text_len = text_len
        self.is_streamed = False
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device

    def stream(self, device: torch.device) -> None:
        """Run on `device` from now on with the weights in host memory, which leave the device if they are on
        it. Not beside a call of `encode`."""
        assert not self.is_streamed, "its weights are in host memory already"
        stream_from_host(self.model, device)
        self._device, self.is_streamed = device, True

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEmbeds:
        """States [1, text_len, D] in the model's dtype; those behind the prompt's last token are zero."""
        with span("tokenize"):
            tokens = self._tokenizer(
                [clean_prompt(prompt)],
                padding="max_length",
                max_length=self.text_len,
                truncation=True,
                add_special_tokens=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        device = self._device
        mask = tokens.attention_mask.to(device)
        states = self.model(tokens.input_ids.to(device), mask).last_hidden_state
        return PromptEmbeds(states=states * mask[..., None].to(states.dtype))


class MiniLMTextEncoder:
    """The toy's text encoder: token states and their mean, padded to the encoder's own text length.

    Args:
        in_known_words: puts a cleaned prompt into words that the transformer was trained on.
    """

    def __init__(
        self, model: MiniLM, tokenizer: MiniLMTokenizer, in_known_words: Callable[[str], str] | None = None
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._in_known_words = in_known_words or str

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEmbeds:
        """States [1, text_len, D] and their mean over the prompt [1, D]."""
        (ids,) = self._tokenizer([self._in_known_words(clean_prompt(prompt))])
        device = self.model.embed.weight.device
        padded = torch.zeros(1, self.model.config.text_len, dtype=torch.int64, device=device)
        padded[0, : len(ids)] = torch.tensor(ids)
        states, pooled = self.model(padded, torch.tensor([len(ids)], device=device))
        return PromptEmbeds(states=states, pooled=pooled)


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder, never from the network and never by code in the folder.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded ({reason})") from error
