"""The written-out text encoder against transformers' BERT, from the same random checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from rushes.models.mini_lm import MiniLM, config_from_dict, sources
from rushes.models.weights import load_weights


def test_equals_transformers_bert(tmp_path: Path) -> None:
    raw = {
        "model_type": "bert",
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 12,
        "layer_norm_eps": 1e-12,
    }
    bert = BertModel(BertConfig(**raw), add_pooling_layer=False).eval()
    state = {name: tensor for name, tensor in bert.state_dict().items() if tensor.is_floating_point()}
    segment = state.pop("embeddings.token_type_embeddings.weight")
    state["embeddings.position_embeddings.weight"] = (
        state["embeddings.position_embeddings.weight"] + segment[0]
    )
    save_file(state, tmp_path / "model.safetensors")
    config = config_from_dict(raw)
    with torch.device("meta"):
        model = MiniLM(config)
    files = [tmp_path / "model.safetensors"]
    load_weights(model, files, sources(config), lambda name: False, torch.float32, "cpu")

    ids, lengths = torch.randint(0, 50, (3, 12)), torch.tensor([12, 5, 1])
    inside = (torch.arange(12) < lengths[:, None]).long()
    with torch.no_grad():
        wanted = bert(ids, inside).last_hidden_state * inside[..., None]
        states, pooled = model(ids, lengths)
    assert (states - wanted).norm() <= 1e-5 * wanted.norm()
    torch.testing.assert_close(pooled, wanted.sum(1) / lengths[:, None])
