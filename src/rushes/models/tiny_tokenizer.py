"""A small tokenizer of UMT5's kind (unigram pieces, `</s>` at the end), for tiny checkpoints."""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from pathlib import Path

SENTENCES = """
a dog is running in the park . a cat sits on a red chair . two birds fly over the blue sea at sunset .
the camera moves slowly to the left . a person walks through a city street in the rain .
snow falls on the hills .
a small green boat sails on a calm lake . a yellow car drives along the road .
an old tree stands in the field .
"""
SPECIAL = ("<pad>", "</s>", "<unk>")
RARE = -12.0
"""Log probability of a single character, below that of every word."""

CONFIG = {
    "tokenizer_class": "T5TokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "extra_ids": 0,
    "additional_special_tokens": [],
    "model_max_length": 512,
}


def write_tokenizer(folder: Path) -> None:
    """Write `tokenizer.json` and its config into a new folder; transformers' AutoTokenizer reads them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(_pieces(), unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")


def _pieces() -> list[tuple[str, float]]:
    """Special tokens, words by their log frequency, and single characters for everything else."""
    counts = Counter(SENTENCES.split())
    words = [(f"▁{word}", math.log(count / counts.total())) for word, count in sorted(counts.items())]
    characters = [("▁", RARE), *((character, RARE) for character in string.ascii_letters + string.digits)]
    characters += [(character, RARE) for character in string.punctuation]
    return [*((token, 0.0) for token in SPECIAL), *words, *characters]
