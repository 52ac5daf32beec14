"""LoRA: fused weights act as the unfused product, in the right rows, or the file is refused by name."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import linear
from training.dit import CONFIG as TOY

from rushes.errors import CheckpointError
from rushes.models.at_rest import quantize_state
from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.lora import fuse, read_lora
from rushes.models.wan import Wan, cast_weights, sources
from training import few_step

CONFIG = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    ffn_dim=32,
    text_dim=8,
    freq_dim=16,
    experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=8, shared_dim=16),
)
DIM = CONFIG.dim
SOURCES = sources(CONFIG, "diffusers")
RANK = 3


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wan(CONFIG).eval().requires_grad_(False)


def pair(stem, out=DIM, width=DIM, seed=0):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn((RANK, width), generator=generator)
    up = torch.randn((out, RANK), generator=generator)
    return {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}


def product(lora, stem):
    return lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]


def adapted(lora, stem):
    """A forward hook that adds the unfused product to a linear layer's output."""
    down, up = lora[f"{stem}.lora_A.weight"], lora[f"{stem}.lora_B.weight"]
    return lambda _module, args, output: output + linear(linear(args[0], down), up)


def clip(model):
    generator = torch.Generator().manual_seed(7)
    context = model.encode_text(torch.randn((1, 5, CONFIG.text_dim), generator=generator))
    latents = torch.randn((1, 4, 2, 4, 4), generator=generator)
    return model(latents, torch.tensor([600.0]), context)


@torch.no_grad()
def test_a_fused_model_computes_what_the_unfused_product_adds(model):
    stems = {"blocks.0.attn1.to_out.0": "self_attn.out", "blocks.0.attn2.to_q": "cross_attn.q"}
    lora = {}
    for seed, stem in enumerate(stems):
        lora |= pair(stem, seed=seed)
    hooked = copy.deepcopy(model)
    for stem, module in stems.items():
        hooked.blocks[0].get_submodule(module).register_forward_hook(adapted(lora, stem))
    plain, expected = clip(model), clip(hooked)
    fuse(model, lora, SOURCES)
    assert (clip(model) - expected).norm() <= 1e-5 * expected.norm()
    assert (plain - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize(
    ("stem", "name", "part", "parts"),
    [
        ("blocks.1.attn1.to_q", "blocks.1.self_attn.qkv.weight", 0, 3),
        ("blocks.1.attn1.to_k", "blocks.1.self_attn.qkv.weight", 1, 3),
        ("blocks.1.attn1.to_v", "blocks.1.self_attn.qkv.weight", 2, 3),
        ("blocks.0.attn2.to_v", "blocks.0.cross_attn.kv.weight", 1, 2),
    ],
)
def test_only_the_rows_of_its_part_of_a_fused_weight_change(model, stem, name, part, parts):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    lora = pair(stem)
    fuse(model, lora, SOURCES, scale=0.5)
    for key, tensor in model.state_dict().items():
        if key != name:
            assert torch.equal(tensor, before[key])
    rows = model.state_dict()[name].chunk(parts)
    for index, old in enumerate(before[name].chunk(parts)):
        expected = old + 0.5 * product(lora, stem) if index == part else old
        torch.testing.assert_close(rows[index], expected, rtol=1e-6, atol=1e-6)


def test_alpha_over_rank_is_the_scale(model):
    stem = "blocks.0.ffn.shared_up"
    lora = pair(stem, out=16) | {f"{stem}.alpha": torch.tensor(6.0)}
    before = model.blocks[0].ffn.shared_up.clone()
    fuse(model, lora, SOURCES)
    expected = before + 6.0 / RANK * product(lora, stem)
    torch.testing.assert_close(model.blocks[0].ffn.shared_up, expected, rtol=1e-6, atol=1e-6)


def test_a_weight_keeps_its_dtype_and_is_rounded_once(model):
    stem = "blocks.0.attn1.to_out.0"
    lora = pair(stem)
    cast_weights(model, torch.bfloat16)
    before = model.blocks[0].self_attn.out.weight.clone()
    fuse(model, lora, SOURCES)
    assert torch.equal(
        model.blocks[0].self_attn.out.weight, (before.float() + product(lora, stem)).bfloat16()
    )


def test_a_difference_beside_a_product_is_added_before_rounding(model):
    stem = "blocks.0.attn1.to_out.0"
    diff = torch.randn((DIM, DIM), generator=torch.Generator().manual_seed(3))
    lora = pair(stem) | {f"{stem}.diff": diff}
    cast_weights(model, torch.bfloat16)
    before = model.blocks[0].self_attn.out.weight.float()
    fuse(model, lora, SOURCES)
    expected = before + diff + product(lora, stem)
    found = model.blocks[0].self_attn.out.weight.float()
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-6)


def test_what_would_change_nothing_or_is_there_twice_is_refused(model):
    lora = pair("blocks.0.attn1.to_q")
    for nothing, scale in (({}, 1.0), (lora, 0.0)):
        with pytest.raises(CheckpointError, match="change nothing"):
            fuse(model, nothing, SOURCES, scale=scale)
    twice = lora | {f"transformer.{name}": tensor for name, tensor in lora.items()}
    with pytest.raises(CheckpointError, match="two spellings of one tensor"):
        fuse(model, twice, SOURCES)


def test_what_few_step_training_writes_fuses_to_the_trained_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = Wan(TOY)
        fused = copy.deepcopy(base)
        student = few_step.Student(base, is_compiled=False)
        for update in student.updates.values():
            update.b.data.normal_(std=0.1)
            for parameter in (update.a, update.b):
                parameter.data = parameter.data.bfloat16().float()  # the file's precision
    student.refresh()
    fuse(fused, few_step.as_lora(student.updates), sources(TOY, "diffusers"))
    assert len(student.updates) == 6 * TOY.num_layers
    for name in student.updates:
        trained = student.fast.get_parameter(name)
        torch.testing.assert_close(fused.get_parameter(name), trained, rtol=1e-5, atol=1e-6)


def test_the_names_of_lightx2v_change_what_diffusers_names_do(model):
    """The original layout's modules behind a prefix; whole differences of weights, biases and modulation."""
    generator = torch.Generator().manual_seed(0)
    lora = pair("blocks.0.attn1.to_v") | pair("blocks.1.attn2.to_q")
    twin = copy.deepcopy(model)
    fuse(twin, lora)
    theirs = {
        name.replace("attn1.to_v", "self_attn.v")
        .replace("attn2.to_q", "cross_attn.q")
        .replace("lora_A", "lora_down")
        .replace("lora_B", "lora_up"): tensor
        for name, tensor in lora.items()
    }
    diffs = {
        "blocks.0.self_attn.norm_q.diff": ("blocks.0.self_attn.norm_q.weight", (DIM,)),
        "blocks.0.self_attn.k.diff_b": ("blocks.0.self_attn.qkv.bias", (DIM,)),
        "blocks.1.diff_m": ("blocks.1.modulation", (1, 6, DIM)),
        "patch_embedding.diff": ("patch_embed.weight", (DIM, 4, 1, 2, 2)),
    }
    for name, (_, shape) in diffs.items():
        theirs[name] = torch.randn(shape, generator=generator)
    fuse(model, {f"diffusion_model.{name}": tensor for name, tensor in theirs.items()})
    for name, tensor in model.named_parameters():
        expected = twin.get_parameter(name).clone()
        for diff, (changed, _) in diffs.items():
            if changed == name:
                rows = expected[DIM : 2 * DIM] if name.endswith("qkv.bias") else expected
                rows += theirs[diff].reshape(rows.shape)
        torch.testing.assert_close(tensor, expected, msg=name)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (pair("blocks.0.attn1.to_qq"), r"'blocks.0.attn1.to_qq' is no matrix .*mean 'blocks.0.attn1.to_q'"),
        (pair("blocks.2.attn1.to_q"), r"'blocks.2.attn1.to_q' is no matrix"),
        (pair("blocks.0.attn1.norm_q"), "'blocks.0.attn1.norm_q' is no matrix"),
        (pair("blocks.0.ffn.experts_up"), "'blocks.0.ffn.experts_up' is no matrix"),
        (pair("blocks.0.attn1.to_q", out=23), r"wrong shape of blocks.0.attn1.to_q: B \[23, 3\]"),
        (pair("blocks.0.attn1.to_q", width=8), r"A \[3, 8\]; the weight is \[24, 24\]"),
        ({"blocks.0.attn1.to_qq.diff_b": torch.zeros(DIM)}, "changes nothing .*mean 'blocks.0.attn1.to_q'"),
        ({"blocks.0.attn1.to_q.diff": torch.zeros(5)}, r"wrong shape of .*diff: \[5\]; .* is \[24, 24\]"),
        ({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(3, DIM)}, r"to_q.lora_B.weight' is missing"),
        (
            {"blocks.0.attn1.to_q.lora_up": torch.zeros(3, DIM)},
            r"to_q.lora_up' does not end in one of .lora_A",
        ),
    ],
)
def test_a_file_for_another_model_is_refused_and_changes_nothing(model, lora, words):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=words):
        fuse(model, pair("blocks.1.attn2.to_q") | lora, SOURCES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_at_rest_is_read_as_what_it_was(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "x.lora_A.weight": torch.randn((16, 320), generator=generator),
        "x.alpha": torch.tensor(2.0),
    }
    save_file(quantize_state(tensors), tmp_path / "small.safetensors")
    found = read_lora(tmp_path / "small.safetensors")
    assert found.keys() == tensors.keys()
    step = tensors["x.lora_A.weight"].abs().amax(1, keepdim=True) / 127
    assert ((found["x.lora_A.weight"] - tensors["x.lora_A.weight"]).abs() <= 0.501 * step).all()
    assert found["x.alpha"] == 2.0


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no few_step\.safetensors"):
        read_lora(tmp_path / "few_step.safetensors")
    (tmp_path / "few_step.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"few_step\.safetensors: truncated"):
        read_lora(tmp_path / "few_step.safetensors")
