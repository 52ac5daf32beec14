"""What a checkpoint folder is: its model, settings and their origins, parts. No torch until a part loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rushes.errors import CheckpointError
from rushes.models.checkpoint_settings import Resolved, Settings, explain, explain_precision, resolve_settings
from rushes.models.headers import WeightFiles, find_weights, pickled_bytes, read_headers, read_json
from rushes.models.revision import revision

if TYPE_CHECKING:
    import torch

    from rushes.models.checkpoint_report import CheckpointReport
    from rushes.models.expert_pair import ExpertPair
    from rushes.models.text import TextEncoder
    from rushes.models.wan import Wan
    from rushes.models.wan_vae import WanVAE

Layout = Literal["diffusers", "wan"]
Expert = Literal["high", "low"]

FOLDERS = {
    "transformer": "transformer",
    "transformer_low": "transformer_2",
    "vae": "vae",
    "text_encoder": "text_encoder",
    "tokenizer": "tokenizer",
}
"""Where the diffusers layout keeps each part."""

WAN_TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
WAN_TOKENIZER = "google/umt5-xxl"

TEXT_TO_VIDEO = ("WanPipeline", "WanDMDPipeline")
MODEL_TYPES = ("t2v", "ti2v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a checkpoint.

    Attributes:
        name: transformer (the high-noise expert of two, or the only one), transformer_low, vae, text_encoder
            or tokenizer.
        path: its folder, or its `.pth` file.
        weights: its weight files.
    """

    name: str
    path: Path
    weights: WeightFiles

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of the weight files (of all files of a tokenizer)."""
        if self.name == "tokenizer":
            return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return self.weights.num_bytes

    @property
    def num_parameters(self) -> int:
        """Values stored, from the files' headers; a `.pth` is counted by its bytes and published dtype
        (UMT5 bfloat16, VAE float32). Raises `CheckpointError` for a damaged file."""
        if self.path.suffix == ".pth":
            return pickled_bytes(self.path) // (2 if self.name == "text_encoder" else 4)
        headers = read_headers(self.weights.present)
        return sum(header.num_elements for name, header in headers.items() if not name.endswith(".scale"))

    @property
    def revision(self) -> str:
        """A name for what its files hold; reads little of them. Raises `CheckpointError`."""
        if self.name == "tokenizer":
            return revision(file for file in self.path.rglob("*") if file.is_file())
        config = self.path / "config.json"
        return revision([*self.weights.present, *([config] if config.is_file() else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened folder. Reading it touched JSON and headers only; the `load_*` methods read weights.

    Attributes:
        layout: "diffusers", or "wan" for the original repository's layout.
        pipeline: name of the pipeline rules that fit it.
        boundary: fraction of 1000 at and above which the high-noise expert runs; None for one expert.
        notes: sentences for the user about this folder, traps first.
        parts: by name, those that are present.

    Example:
        >>> checkpoint = open_checkpoint(Path("Wan2.2-T2V-A14B"))  # doctest: +SKIP
        >>> checkpoint.flow_shift.value, checkpoint.flow_shift.origin  # doctest: +SKIP
        (12.0, "official value (the folder's layout holds no scheduler settings)")
    """

    folder: Path
    layout: Layout
    pipeline: str
    boundary: Resolved[float | None]
    flow_shift: Resolved[float]
    solver: Resolved[str]
    notes: tuple[str, ...]
    parts: Mapping[str, Part]

    @property
    def decided(self) -> dict[str, Any]:
        """What the folder says of sampling. The toy's has no say: its rules are written beside it."""
        if self.pipeline == "toy":
            return {}
        return {"flow_shift": self.flow_shift.value, "solver": self.solver.value}

    def part(self, name: str) -> Part:
        """The part of that name. Raises `CheckpointError` that says what is missing and how to go on."""
        if name not in self.parts:
            raise CheckpointError(_missing(self, name))
        part = self.parts[name]
        if part.weights.missing:
            raise CheckpointError(f"{name}: shard {part.weights.missing[0]} is missing; its index names it")
        return part

    def describe(self) -> CheckpointReport:
        """Sizes, settings and memory need, from headers alone. Raises `CheckpointError` for damaged files."""
        from rushes.models.checkpoint_report import describe

        return describe(self)

    def load_transformer(self, expert: Expert, device: torch.device | str, dtype: torch.dtype) -> Wan:
        """Build and load one network; "high" is also the only one of a one-expert model."""
        from rushes.models.loader import load_transformer

        return load_transformer(self, expert, device, dtype)

    def load_experts(
        self,
        device: torch.device | str,
        dtype: torch.dtype,
        *,
        resident: bool | None = None,
        reserved: int = 0,
        change: Callable[[Wan], Wan] | None = None,
    ) -> ExpertPair:
        """Load the network or both noise experts, each changed by `change`; None lets `both_fit` decide who
        stays on the device, where `reserved` bytes are left to parts still to come."""
        from rushes.models.loader import load_experts

        changed = {} if change is None else {"change": change}
        return load_experts(self, device, dtype, resident=resident, reserved=reserved, **changed)

    def load_vae(self, device: torch.device | str, dtype: torch.dtype) -> WanVAE:
        """Build and load the VAE."""
        from rushes.models.loader import load_vae

        return load_vae(self, device, dtype)

    def load_text_encoder(
        self, device: torch.device | str, dtype: torch.dtype, *, streamed: bool = False
    ) -> TextEncoder:
        """Build and load the text encoder with its tokenizer; `streamed` as in `rushes.models.loader`."""
        from rushes.models.loader import load_text_encoder

        return load_text_encoder(self, device, dtype, streamed=streamed)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Recognise a folder and settle its settings; weights are not read and parts may be missing.

    Raises:
        CheckpointError: not a checkpoint, or of a model that is not supported (image to video, by name).
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: not a folder; give the folder of a Wan checkpoint")
    layout = _recognise(folder)
    model_index = _read_optional(folder / "model_index.json") if layout == "diffusers" else {}
    scheduler = (
        _read_optional(folder / "scheduler" / "scheduler_config.json") if layout == "diffusers" else {}
    )
    has_low = _has_low(folder, layout, model_index)
    config = _transformer_config(folder, layout)
    _refuse_other_tasks(folder, model_index, config, has_low)
    pipeline = _name_pipeline(folder, config, has_low)
    parts = {part.name: part for part in _find_parts(folder, layout, pipeline)}
    settings = resolve_settings(pipeline, has_low=has_low, model_index=model_index, scheduler=scheduler)
    return Checkpoint(
        folder=folder,
        layout=layout,
        pipeline=pipeline,
        boundary=settings.boundary,
        flow_shift=settings.flow_shift,
        solver=settings.solver,
        notes=_notes(folder, pipeline, settings, scheduler, parts),
        parts=parts,
    )


def _recognise(folder: Path) -> Layout:
    if (folder / "model_index.json").is_file() or (folder / "transformer").is_dir():
        return "diffusers"
    if (folder / "high_noise_model").is_dir() or (folder / "low_noise_model").is_dir():
        return "wan"
    if (folder / "config.json").is_file():
        return "wan"
    if any("lora" in file.name.lower() for file in folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder}: holds LoRA weights only; give the folder of the model they belong to"
        )
    raise CheckpointError(
        f"{folder}: not a Wan checkpoint; expected model_index.json with transformer/ (diffusers), or"
        " high_noise_model/ and low_noise_model/, or config.json with weights beside it (original layout)"
    )


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _find_parts(folder: Path, layout: Layout, pipeline: str) -> list[Part]:
    if layout == "diffusers":
        return [part for name, path in FOLDERS.items() if (part := _folder_part(name, folder / path))]
    if (folder / "config.json").is_file():
        experts = [_folder_part("transformer", folder)]
    else:
        experts = [
            _folder_part("transformer", folder / "high_noise_model"),
            _folder_part("transformer_low", folder / "low_noise_model"),
        ]
    pickles = [
        _file_part("vae", folder / _wan_vae(pipeline)),
        _file_part("text_encoder", folder / WAN_TEXT_ENCODER),
    ]
    found = [*experts, *pickles, _folder_part("tokenizer", folder / WAN_TOKENIZER)]
    return [part for part in found if part]


def _folder_part(name: str, path: Path) -> Part | None:
    if not path.is_dir():
        return None
    weights = WeightFiles() if name == "tokenizer" else find_weights(path)
    if name != "tokenizer" and not weights.present and not weights.missing:
        return None
    return Part(name=name, path=path, weights=weights)


def _file_part(name: str, file: Path) -> Part | None:
    return Part(name=name, path=file, weights=WeightFiles(present=(file,))) if file.is_file() else None


def _has_low(folder: Path, layout: Layout, model_index: Mapping[str, Any]) -> bool:
    if layout == "wan":
        return not (folder / "config.json").is_file()
    named = [entry for entry in model_index.get("transformer_2") or () if entry]
    return (folder / "transformer_2").is_dir() or bool(named) or model_index.get("boundary_ratio") is not None


def transformer_folder(checkpoint_folder: Path, layout: Layout, expert: Expert) -> Path:
    """The folder of an expert's `config.json`, which a one-expert folder of the original layout is itself."""
    if layout == "diffusers":
        return checkpoint_folder / ("transformer" if expert == "high" else "transformer_2")
    if (checkpoint_folder / "config.json").is_file():
        return checkpoint_folder
    return checkpoint_folder / f"{expert}_noise_model"


def _transformer_config(folder: Path, layout: Layout) -> dict[str, Any]:
    """The config of the high-noise expert, or of the low-noise one when only that was downloaded."""
    experts: tuple[Expert, Expert] = ("high", "low")
    files = [transformer_folder(folder, layout, expert) / "config.json" for expert in experts]
    for file in files:
        if file.is_file():
            return read_json(file)
    raise CheckpointError(f"{files[0]}: missing; it says which model this folder holds")


def _refuse_other_tasks(
    folder: Path, model_index: Mapping[str, Any], config: Mapping[str, Any], has_low: bool
) -> None:
    """Raise for every Wan model that is not text to video."""
    pipeline_class = model_index.get("_class_name", TEXT_TO_VIDEO[0])
    model_type = config.get("model_type", MODEL_TYPES[0])
    is_i2v = (
        model_type == "i2v"
        or pipeline_class == "WanImageToVideoPipeline"
        or _in_channels(config) == 36
        or config.get("image_dim") is not None
        or (folder / "image_encoder").is_dir()
    )
    if is_i2v:
        name = "Wan2.2-I2V-A14B" if has_low else "Wan2.1-I2V-14B"
        raise CheckpointError(
            f"{folder}: {name} (image to video) is not supported; Rushes makes video from text"
        )
    if pipeline_class not in TEXT_TO_VIDEO:
        raise CheckpointError(f"{folder}: model_index.json names {pipeline_class}, not {TEXT_TO_VIDEO[0]}")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: a Wan model of type {model_type!r} is not supported; only text to video"
        )


def _in_channels(config: Mapping[str, Any]) -> int | None:
    channels = config.get("in_channels", config.get("in_dim"))
    return channels if isinstance(channels, int) else None


def _dim(config: Mapping[str, Any]) -> int:
    if "dim" in config:
        return int(config["dim"])
    return int(config.get("num_attention_heads", 40)) * int(config.get("attention_head_dim", 128))


def _name_pipeline(folder: Path, config: Mapping[str, Any], has_low: bool) -> str:
    """Tell the family by structure, so that a tiny random checkpoint is what it imitates."""
    channels = _in_channels(config)
    if config.get("experts") or config.get("pooled_dim"):
        return "toy"
    if channels == 48:
        return "wan2.2-ti2v-5b"
    if channels == 16 and has_low:
        return "wan2.2-t2v-a14b"
    if channels == 16:
        return "wan2.1-t2v-1.3b" if _dim(config) == 1536 else "wan2.1-t2v-14b"
    raise CheckpointError(
        f"{folder}: a transformer with {channels} latent channels is no Wan text-to-video model (16 or 48)"
    )


def _notes(
    folder: Path, pipeline: str, settings: Settings, scheduler: Mapping[str, Any], parts: Mapping[str, Part]
) -> tuple[str, ...]:
    names = (folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*.safetensors")))
    notes = explain(pipeline, settings, scheduler, names)
    if pipeline != "toy" and "transformer" in parts:
        notes += _precision_notes(parts["transformer"])
    for part in parts.values():
        notes += [f"Incomplete: {part.name} lacks {file.name}." for file in part.weights.missing]
    return tuple(notes)


def _precision_notes(part: Part) -> list[str]:
    """A damaged file is reported when its part loads; here it only means that nothing can be said of it."""
    try:
        headers = read_headers(part.weights.present)
    except CheckpointError:
        return []
    return explain_precision({name: header.dtype for name, header in headers.items()})


def _missing(checkpoint: Checkpoint, name: str) -> str:
    where = FOLDERS[name] + "/" if checkpoint.layout == "diffusers" else _wan_name(checkpoint, name)
    advice = {
        "text_encoder": "add it, or give prompt_embeds and negative_prompt_embeds instead of a prompt",
        "tokenizer": "add it, or give prompt_embeds and negative_prompt_embeds instead of a prompt",
        "vae": 'add it, or ask for output="latents"',
    }
    return f"{checkpoint.folder}: no {name} ({where}); {advice.get(name, 'add it to the folder')}"


def _wan_vae(pipeline: str) -> str:
    return "Wan2.2_VAE.pth" if pipeline == "wan2.2-ti2v-5b" else "Wan2.1_VAE.pth"


def _wan_name(checkpoint: Checkpoint, name: str) -> str:
    experts = {
        "transformer": "high_noise_model/ or shards beside config.json",
        "transformer_low": "low_noise_model/",
    }
    return {
        **experts,
        "vae": _wan_vae(checkpoint.pipeline),
        "text_encoder": WAN_TEXT_ENCODER,
        "tokenizer": WAN_TOKENIZER + "/",
    }[name]
