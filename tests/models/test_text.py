"""Prompts become what diffusers' Wan pipeline makes of them, from either layout."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from rushes.errors import CheckpointError
from rushes.models import mini_lm, umt5
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.headers import TensorHeader
from rushes.models.loader import open_checkpoint
from rushes.models.prompts import clean_prompt
from rushes.models.text import TextEncoder, load_tokenizer
from rushes.pipelines.wan_rules import NEGATIVE_PROMPT

PROMPTS = [
    "a dog is running in the park .",
    "",
    " two  birds &amp;amp; a \n cat",
    "“curly” ‘quotes’ \x00 and NUL",
    "🐕 كلب يركض",
    "a red chair " * 400,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("text") / "diffusers")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return open_checkpoint(folder).load_text_encoder("cpu", torch.float32)


def test_embeddings_equal_diffusers_pipeline(folder: Path, encoder: TextEncoder) -> None:
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    for prompt in PROMPTS:
        with torch.inference_mode():
            expected, _ = pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=512
            )
        states = encoder.encode(prompt).states
        error = (states - expected).norm() / expected.norm()
        assert states.shape == (1, 512, 32)
        assert error <= 1e-6, (prompt[:20], float(error))


def test_the_original_layout_encodes_the_same(encoder: TextEncoder, tmp_path: Path) -> None:
    original = make_checkpoint("a14b", tmp_path / "wan", "wan")
    other = open_checkpoint(original).load_text_encoder("cpu", torch.float32)
    for prompt in PROMPTS[:2]:
        assert torch.equal(other.encode(prompt).states, encoder.encode(prompt).states)


def test_states_are_zero_behind_the_prompt(encoder: TextEncoder) -> None:
    lengths = [int(encoder.encode(prompt).states.any(-1).sum()) for prompt in ("", "a dog", "a dog " * 400)]
    assert lengths == [1, 3, 512]


@pytest.mark.parametrize("prompt", ["\ud800", "\ud83d\udc15", "\x00", "x" * 100_000])
def test_odd_prompts_are_encoded(encoder: TextEncoder, prompt: str) -> None:
    states = encoder.encode(prompt).states
    assert states.isfinite().all()
    assert states[0, 0].any()


NASTY = [
    "plain",
    "",
    " a\t\nb \r\n c\u2028d\u00a0e\u3000f ",
    "&lt;b&gt; &amp;quot; &amp;amp;lt; &#39; &notanentity; &#0;&#x80;",
    "it’s “so”",
    "&ldquo;hi&rdquo; it&rsquo;s",
    "&amp;ldquo;hi&amp;rdquo; it&amp;rsquo;s “curly”",
    "<b>&ldquo;hi&rdquo;</b>",
    "\x00\x1fbell\x07 \x7f\x85 \u206a",
    "\ufeffbom and\ufeff another",
    "ñ ß 漢字 ｆｕｌｌ　ｗｉｄｔｈ ﬁsh ﬂ",
    "cafÃ© â€œmojibakeâ€\x9d schÃ¶n",
    "e\u0301 decomposed",
    "\x1b[31mred\x1b[0m",
    "🐕 \u200d 👩\u200d🚀 \ufe0f",
    "\ud800 \udc15 \ud83d\udc15",
]


@pytest.mark.parametrize("text", [*NASTY, NEGATIVE_PROMPT])
def test_cleaning_equals_diffusers(text: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    assert clean_prompt(text) == prompt_clean(text)


def test_surrogate_pairs_are_joined_and_halves_replaced() -> None:
    assert clean_prompt("\ud83d\udc15 \ud800") == "🐕 \ufffd"


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint("ti2v-5b", tmp_path / "tiny")
    file = folder / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text()[:300])
    with pytest.raises(CheckpointError, match=r"tokenizer: the tokenizer cannot be loaded"):
        open_checkpoint(folder).load_text_encoder("cpu", torch.float32)
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"no tokenizer \(tokenizer/\); .* prompt_embeds"):
        open_checkpoint(folder).load_text_encoder("cpu", torch.float32)


def test_code_in_the_folder_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint("ti2v-5b", tmp_path / "tiny") / "tokenizer"
    config = {"tokenizer_class": "Ours", "auto_map": {"AutoTokenizer": ["ours.Ours", "ours.Ours"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "ours.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # an answer, should transformers ask
    with contextlib.suppress(CheckpointError):
        load_tokenizer(folder)


def test_another_encoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="model_type 't5'"):
        umt5.config_from_dict({"model_type": "t5"})
    header = TensorHeader(dtype="F32", stored_shape=(2, 3), file=Path("weights.pth"))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.q\.weight"):
        umt5.config_from_headers({"token_embedding.weight": header})


def test_the_defaults_are_umt5_xxl() -> None:
    count = sum(parameter.numel() for parameter in umt5.build_umt5(umt5.UMT5Config()).parameters())
    assert count == 5_680_910_336


def test_either_stored_name_of_the_embedding_is_read(tmp_path: Path) -> None:
    """Published folders store the tied embedding under one name, the other, or both."""
    folder = make_checkpoint("ti2v-5b", tmp_path / "tiny")
    expected = open_checkpoint(folder).load_text_encoder("cpu", torch.float32).encode("a cat").states
    index = folder / "text_encoder" / "model.safetensors.index.json"
    for shard in sorted((folder / "text_encoder").glob("model-*.safetensors")):
        merge_into(folder / "text_encoder" / "model.safetensors", shard)
    index.unlink()
    for names in (("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")):
        rename_embedding(folder / "text_encoder" / "model.safetensors", names)
        states = open_checkpoint(folder).load_text_encoder("cpu", torch.float32).encode("a cat").states
        assert torch.equal(states, expected)


def merge_into(whole: Path, shard: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(whole) if whole.exists() else {}
    save_file(tensors | load_file(shard), whole)
    shard.unlink()


def rename_embedding(file: Path, names: tuple[str, ...]) -> None:
    from safetensors.torch import load_file

    tensors = load_file(file)
    held = [tensors.pop(name) for name in ("shared.weight", "encoder.embed_tokens.weight") if name in tensors]
    save_file(tensors | {name: held[0].clone() for name in names}, file)


def test_the_toys_encoder_gives_states_and_their_mean(tmp_path: Path) -> None:
    config = mini_lm.MiniLMConfig(vocab_size=5, dim=8, num_layers=1, num_heads=2, ffn_dim=16, text_len=6)
    model = mini_lm.MiniLM(config)
    write_toy(tmp_path, model)
    encoded = open_checkpoint(tmp_path).load_text_encoder("cpu", torch.float32).encode("a  dog runs")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        states, pooled = model(ids, torch.tensor([3]))
    assert encoded.states.shape == (1, 6, 8)
    torch.testing.assert_close(encoded.states[:, :3], states)
    assert not encoded.states[:, 3:].any()
    assert encoded.pooled is not None
    torch.testing.assert_close(encoded.pooled, pooled)


def write_toy(folder: Path, model: mini_lm.MiniLM) -> None:
    """A folder with nothing but the toy's text encoder and what tells that it is the toy."""
    config = model.config
    stored: dict[str, torch.Tensor] = {}
    for name, source in mini_lm.sources(config).items():
        pieces = model.get_parameter(name).detach().chunk(len(source.names))
        stored |= {piece: tensor.clone() for piece, tensor in zip(source.names, pieces, strict=True)}
    for part in ("transformer", "text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps({"in_channels": 16, "pooled_dim": 8}))
    save_file(stored, folder / "text_encoder" / "model.safetensors")
    bert = {
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": config.text_len,
        "layer_norm_eps": config.eps,
    }
    (folder / "text_encoder" / "config.json").write_text(json.dumps(bert))
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "dog": 2, "runs": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    (folder / "tokenizer" / mini_lm.TOKENIZER).write_bytes(lzma.compress(tokenizer.to_str().encode()))


def test_transformers_and_ftfy_are_imported_only_when_needed() -> None:
    code = "import sys, rushes.models.loader; assert not {'transformers', 'ftfy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
