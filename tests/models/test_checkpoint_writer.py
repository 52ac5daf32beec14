"""The committed name lists are the public models', and what is written from them loads everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rushes.errors import OutputError, UnknownName
from rushes.models import umt5, wan, wan_vae
from rushes.models.base import Sources
from rushes.models.checkpoint_writer import Layout, make_checkpoint
from rushes.models.configs import WanConfig
from rushes.models.loader import open_checkpoint
from rushes.models.name_lists import Shape, expand, read_list

A14B = {"dim": 5120, "ffn": 13824, "text": 4096, "freq": 256, "layers": 40, "in": 16, "out": 16}
TI2V_5B = {"dim": 3072, "ffn": 14336, "text": 4096, "freq": 256, "layers": 30, "in": 48, "out": 48}
SMALL = {"dim": 1536, "ffn": 8960, "text": 4096, "freq": 256, "layers": 30, "in": 16, "out": 16}
UMT5_XXL = {
    "vocab": 256384,
    "dim": 4096,
    "inner": 4096,
    "ffn": 10240,
    "buckets": 32,
    "heads": 64,
    "layers": 24,
}
VAE21 = {"base": 96, "z": 16}
VAE22 = {"base": 160, "dec": 256, "z": 48}
LAYOUTS: tuple[Layout, Layout] = ("diffusers", "wan")


def wan_config(sizes: Mapping[str, int]) -> WanConfig:
    return WanConfig(
        num_layers=sizes["layers"],
        num_attention_heads=sizes["dim"] // 128,
        attention_head_dim=128,
        in_channels=sizes["in"],
        out_channels=sizes["out"],
        ffn_dim=sizes["ffn"],
    )


def on_meta(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_sources(model: nn.Module, sources: Sources, listed: Mapping[str, Shape]) -> None:
    """Every listed tensor is read exactly once, and joins or reshapes to the parameter that reads it."""
    read = [name for source in sources.values() for name in source.names]
    assert sorted(read) == sorted(listed)
    for name, parameter in model.named_parameters():
        pieces = on_meta({piece: listed[piece] for piece in sources[name].names})
        joined = torch.cat(tuple(pieces.values()))
        if sources[name].reshape is not None:
            joined = joined.reshape(sources[name].reshape)
        assert joined.shape == parameter.shape, name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("sizes", "billions"), [(A14B, 14.288), (TI2V_5B, 5.000), (SMALL, 1.419)], ids=["a14b", "5b", "1.3b"]
)
def test_transformer_lists_are_what_we_read(sizes: dict[str, int], billions: float, layout: Layout) -> None:
    listed = expand(f"dit_{layout}", sizes)
    config = wan_config(sizes)
    with torch.device("meta"):
        model = wan.Wan(config)
    check_sources(model, wan.sources(config, layout), listed)
    count = sum(torch.Size(shape).numel() for shape in listed.values())
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "sizes", "config"),
    [("vae21", VAE21, wan_vae.WAN21_VAE), ("vae22", VAE22, wan_vae.WAN22_VAE)],
    ids=["2.1", "2.2"],
)
def test_vae_lists_are_what_we_read(
    name: str, sizes: dict[str, int], config: wan_vae.WanVAEConfig, layout: Layout
) -> None:
    with torch.device("meta"):
        model = wan_vae.WanVAE(config)
    check_sources(model, wan_vae.sources(config, layout), expand(f"{name}_{layout}", sizes))


@pytest.mark.parametrize(("layout", "name"), [("diffusers", "umt5_transformers"), ("wan", "umt5_wan")])
def test_umt5_lists_are_what_we_read(layout: Layout, name: str) -> None:
    config = umt5.UMT5Config()
    check_sources(umt5.build_umt5(config), umt5.sources(config, layout), expand(name, UMT5_XXL))


@pytest.mark.parametrize("sizes", [A14B, TI2V_5B, SMALL], ids=["a14b", "5b", "1.3b"])
def test_the_diffusers_transformer_list_is_diffusers_module(sizes: dict[str, int]) -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_layers=sizes["layers"],
            num_attention_heads=sizes["dim"] // 128,
            ffn_dim=sizes["ffn"],
            in_channels=sizes["in"],
            out_channels=sizes["out"],
        )
    assert expand("dit_diffusers", sizes) == shapes_of(theirs.state_dict())


@pytest.mark.parametrize(("name", "sizes"), [("vae21", VAE21), ("vae22", VAE22)])
def test_the_diffusers_vae_list_is_diffusers_module(name: str, sizes: dict[str, int]) -> None:
    from diffusers import AutoencoderKLWan

    residual = {"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2}
    with torch.device("meta"):
        theirs = AutoencoderKLWan(
            base_dim=sizes["base"],
            decoder_base_dim=sizes.get("dec"),
            z_dim=sizes["z"],
            **(residual if name == "vae22" else {}),
        )
    assert expand(f"{name}_diffusers", sizes) == shapes_of(theirs.state_dict())


def test_the_transformers_umt5_list_is_transformers_module() -> None:
    theirs = shapes_of(umt5.build_umt5(umt5.UMT5Config()).state_dict())
    assert theirs.pop("encoder.embed_tokens.weight") == theirs["shared.weight"]
    assert expand("umt5_transformers", UMT5_XXL) == theirs


def test_diffusers_own_converter_maps_one_list_onto_the_other() -> None:
    """The independent check of the original layout's names: diffusers converts them, entry by entry."""
    from diffusers.loaders.single_file_utils import (
        convert_wan_transformer_to_diffusers,
        convert_wan_vae_to_diffusers,
    )

    converters = {
        "dit": (convert_wan_transformer_to_diffusers, A14B),
        "vae21": (convert_wan_vae_to_diffusers, VAE21),
    }
    for name, (convert, sizes) in converters.items():
        original = expand(f"{name}_wan", sizes)
        assert shapes_of(convert(on_meta(original))) == expand(f"{name}_diffusers", sizes)


@pytest.mark.parametrize("network", ["dit", "umt5", "vae21", "vae22"])
def test_both_lists_of_a_network_run_in_the_same_order(network: str) -> None:
    theirs = "transformers" if network == "umt5" else "diffusers"
    sizes = {"dit": A14B, "umt5": UMT5_XXL, "vae21": VAE21, "vae22": VAE22}[network]
    original, other = expand(f"{network}_wan", sizes), expand(f"{network}_{theirs}", sizes)
    assert list(original.values()) == list(other.values())
    for name in (f"{network}_wan", f"{network}_{theirs}"):
        assert set(read_list(name)["source"]) == {"repository", "path"}


@pytest.fixture(scope="module", params=["a14b", "ti2v-5b"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    base = tmp_path_factory.mktemp(request.param)
    return {layout: make_checkpoint(request.param, base / layout, layout, seed=3) for layout in LAYOUTS}


def state_of(folder: Path) -> dict[str, Tensor]:
    """Every parameter of every part, as we load it."""
    checkpoint = open_checkpoint(folder)
    parts: dict[str, nn.Module] = {
        "high": checkpoint.load_transformer("high", "cpu", torch.float32),
        "vae": checkpoint.load_vae("cpu", torch.float32),
        "text": checkpoint.load_text_encoder("cpu", torch.float32).model,  # type: ignore[attr-defined]
    }
    if checkpoint.boundary.value is not None:
        parts["low"] = checkpoint.load_transformer("low", "cpu", torch.float32)
    return {
        f"{part}.{name}": tensor
        for part, model in parts.items()
        for name, tensor in model.state_dict().items()
    }


def test_both_layouts_hold_the_same_weights(folders: dict[Layout, Path]) -> None:
    first, second = (state_of(folder) for folder in folders.values())
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    if "low.head.weight" in first:
        assert not torch.equal(first["high.head.weight"], first["low.head.weight"])


def test_diffusers_loads_the_folder_and_holds_the_same_weights(folders: dict[Layout, Path]) -> None:
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(folders["diffusers"], dtype=torch.float32)
    checkpoint = open_checkpoint(folders["diffusers"])
    assert pipeline.config.boundary_ratio == checkpoint.boundary.value
    ours = checkpoint.load_transformer("high", "cpu", torch.float32)
    theirs = pipeline.transformer.state_dict()
    for name, source in wan.sources(ours.config, "diffusers").items():
        joined = torch.cat([theirs[piece] for piece in source.names])
        assert torch.equal(ours.get_parameter(name), joined.reshape(ours.get_parameter(name).shape)), name


def test_the_folder_is_complete_and_sharded(folders: dict[Layout, Path]) -> None:
    for folder in folders.values():
        checkpoint = open_checkpoint(folder)
        experts = {"transformer", "transformer_low"} if checkpoint.boundary.value else {"transformer"}
        assert checkpoint.parts.keys() == experts | {"vae", "text_encoder", "tokenizer"}
        assert len(checkpoint.parts["transformer"].weights.present) == 2
        assert checkpoint.describe().num_bytes < 10_000_000


def test_both_layouts_report_the_same_number_of_parameters(folders: dict[Layout, Path]) -> None:
    first, second = (
        {part.name: part.num_parameters for part in open_checkpoint(folder).describe().parts}
        for folder in folders.values()
    )
    assert first == second


def test_another_seed_is_another_checkpoint(tmp_path: Path) -> None:
    heads = [
        open_checkpoint(make_checkpoint("ti2v-5b", tmp_path / str(seed), "wan", seed=seed))
        .load_transformer("high", "cpu", torch.float32)
        .head.weight
        for seed in (0, 1)
    ]
    assert not torch.equal(*heads)


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'a14b'"):
        make_checkpoint("a14", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        make_checkpoint("a14b", tmp_path / "full")
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    with pytest.raises(OutputError, match="cannot be written"):
        make_checkpoint("a14b", tmp_path / "blocked" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", "full"]
