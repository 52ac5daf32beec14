"""Assemble what the package ships of a training run:

    python -m training.ship --dit RUN/dit2 --few-step RUN/few_step/few_step.safetensors
    python -m training.ship --dit RUN/dit2 --vae RUN/vae --judge RUN/judge

Without `--vae` or `--judge` the one in the package stays. `toy/` is a folder in diffusers' layout, `judge/`
the judge beside it; weights lie in int8 with a scale a row. The transformer's average lies on that grid in
its resumable checkpoint already: nothing more is lost there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rushes.models.at_rest import quantize_state
from rushes.models.configs import WanConfig
from rushes.models.wan import Wan, sources
from training.checkpoints import load_resume, to_layout
from training.dit import CONFIG
from training.optim import Average

ASSETS = Path("src/rushes/assets")
MAX_BYTES = 32_000_000  # of everything that is shipped
MAX_FILE_BYTES = 15 * 2**20
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA = "few_step.safetensors"
FLOW_SHIFT = 3.0

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "boundary_ratio": None,
    "expand_timesteps": False,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "BertModel"],
    "tokenizer": ["transformers", "BertTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def transformer_config(config: WanConfig) -> dict[str, object]:
    """`transformer/config.json`: diffusers' keys, and those of the toy's extensions."""
    raw = {name: value for name, value in asdict(config).items() if name != "rope_theta"}
    diffusers = {"_class_name": "WanTransformer3DModel", "cross_attn_norm": True, "image_dim": None}
    return diffusers | {"qk_norm": "rms_norm_across_heads"} | raw


def transformer_state(average: dict[str, Tensor], config: WanConfig) -> dict[str, Tensor]:
    """The moving average at rest under diffusers' names.

    Modulation tables, norms, routers and biases are small and stay float32. Every row of an expert has its
    own scale, like the rows of any other matrix.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.weight": (config.dim, config.in_channels, *config.patch_size),
        "head_modulation": (1, 2, config.dim),
        **{f"blocks.{layer}.modulation": (1, 6, config.dim) for layer in range(config.num_layers)},
    }
    state = to_layout(average, sources(config, "diffusers"), shapes)
    stacked = {name: tensor.shape for name, tensor in state.items() if ".experts_" in name}
    rows = {name: tensor.flatten(0, 1) if name in stacked else tensor for name, tensor in state.items()}
    stored = quantize_state(rows)
    for name, shape in stacked.items():
        for suffix in ("", ".scale"):
            if name + suffix in stored:
                stored[name + suffix] = stored[name + suffix].unflatten(0, shape[:2])
    return stored


def ship_transformer(checkpoint: Path, folder: Path, config: WanConfig) -> None:
    """The moving average of a resumable checkpoint as `transformer/`."""
    model = Wan(config)
    average = Average(model, decay=0.0)
    with torch.random.fork_rng():
        load_resume(checkpoint, model, average)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", transformer_config(config))
    save_file(transformer_state(average.state, config), folder / WEIGHTS)


def ship_vae(trained: Path, folder: Path) -> None:
    """The VAE of `training.vae` at rest as `vae/`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained / "config.json", folder / "config.json")
    save_file(quantize_state(load_file(trained / "model.safetensors")), folder / WEIGHTS)


def ship_settings(folder: Path) -> None:
    """`model_index.json` and the shift; the solver, Euler on even levels, is no diffusers class."""
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    write_json(folder / "model_index.json", MODEL_INDEX)
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"num_train_timesteps": 1000, "flow_shift": FLOW_SHIFT, "prediction_type": "flow_prediction"},
    )


def ship_text(folder: Path) -> None:
    """The text encoder, which `training.text_encoder` put into the package, where another folder lacks it."""
    for name in ("text_encoder", "tokenizer"):
        if not (folder / name).exists():
            shutil.copytree(ASSETS / "toy" / name, folder / name)


def ship_few_step(trained: Path | None, file: Path) -> None:
    """The few-step LoRA at rest; an old one goes when none belongs to the new weights."""
    if trained is None:
        file.unlink(missing_ok=True)
        return
    save_file(quantize_state(load_file(trained)), file)


def ship_judge(trained: Path, folder: Path) -> None:
    """The judge, which is at rest already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(trained / name, folder / name)


def write_json(file: Path, content: dict[str, object]) -> None:
    """Indented by one, a newline at the end."""
    file.write_text(json.dumps(content, indent=1) + "\n")


def sizes(folder: Path) -> dict[str, int]:
    """Bytes by part: the entries of the folders in `folder`."""
    parts = sorted(part for top in folder.iterdir() for part in top.iterdir())
    return {str(part.relative_to(folder)): num_bytes(part) for part in parts}


def num_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_sizes(folder: Path) -> None:
    """Stop when the assets, or one of their files, are larger than what a repository should hold."""
    total = num_bytes(folder)
    if total > MAX_BYTES:
        raise SystemExit(f"{folder}: {total} bytes, more than {MAX_BYTES}")
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > MAX_FILE_BYTES:
            raise SystemExit(f"{file}: {file.stat().st_size} bytes, more than {MAX_FILE_BYTES}")


def ship(
    vae: Path | None,
    dit: Path,
    judge: Path | None,
    few_step: Path | None,
    out: Path,
    *,
    config: WanConfig = CONFIG,
) -> None:
    """Write every part under `out`, where a VAE or judge that is None stays as it is; `config` is that of the
    transformer."""
    toy = out / "toy"
    ship_settings(toy)
    ship_text(toy)
    ship_transformer(dit, toy / "transformer", config)
    if vae is not None:
        ship_vae(vae, toy / "vae")
    ship_few_step(few_step, toy / LORA)
    if judge is not None:
        ship_judge(judge, out / "judge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--dit", type=Path, required=True)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--few-step", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    ship(args.vae, args.dit, args.judge, args.few_step, args.out)
    for name, size in sizes(args.out).items():
        print(f"{size:>10}  {name}")
    print(f"{num_bytes(args.out):>10}  {args.out}")
    check_sizes(args.out)


if __name__ == "__main__":
    main()
