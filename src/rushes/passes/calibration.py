"""How large the inputs of linear layers get, by noise expert, layer and timestep: measured once, in a file.

A file is safetensors: `KEY/LAYER/peaks` float32 [S, K], the largest magnitude of each of K channels in each
of S timestep buckets, `KEY/LAYER/percentiles` [S, P], of all magnitudes, and `KEY/LAYER/weights`, a sample of
the layer's weights. KEY is `network_key`, so a noise expert finds its own ranges; those of other weights, as
of a fine-tune or a LoRA, are refused. A bucket that no forward met holds zeros. The header's metadata tell
what the ranges were measured with (`about`), its "model" also in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rushes.errors import ConfigError, OutputError
from rushes.models.phase import PLAIN, Phase
from rushes.models.wan import Wan
from rushes.passes.blocks import changed_blocks
from rushes.passes.linears import ALL_TARGETS, TARGETS, linears_of

PERCENTILES = (99.0, 99.9, 99.99, 99.999)
_SAMPLE = 2**20
"""Numbers of an input whose percentiles are taken; evenly spread."""
_NUM_WEIGHTS = 256
"""Of a layer, by which it is known; evenly spread."""
_ROUNDING = 2.0**-7
"""Most relative difference of one weight in two of the dtypes that networks are loaded in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Of the inputs of one layer.

    Attributes:
        peaks: float32 [S, K].
        percentiles: float32 [S, len(PERCENTILES)].
        weights: float32 [W], see `sample_of`.
    """

    peaks: Tensor
    percentiles: Tensor
    weights: Tensor


Calibration = Mapping[str, Ranges]
"""By the layer's name in one network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestepBuckets:
    """Implements `rushes.models.phase.PhaseRule`: a label for each of equal parts of [0, 1000]."""

    num_buckets: int

    def labels(self, step: int, num_steps: int, timestep: float) -> Phase:
        """See `PhaseRule`. One bucket needs no label."""
        return PLAIN if self.num_buckets == 1 else (bucket_label(bucket_of(timestep, self.num_buckets)),)


def bucket_of(timestep: float, num_buckets: int) -> int:
    """The bucket of a timestep in [0, 1000].

    Example:
        >>> [bucket_of(t, 4) for t in (0.0, 249.9, 250.0, 1000.0)]
        [0, 0, 1, 3]
    """
    return min(int(timestep / 1000 * num_buckets), num_buckets - 1)


def bucket_label(bucket: int) -> str:
    """What a phase calls the bucket."""
    return f"timesteps-{bucket}"


def network_key(network: Wan) -> str:
    """The same for equal weights, whatever dtype they are loaded in and whatever passes have changed them."""
    modulation = network.blocks[0].modulation
    assert isinstance(modulation, Tensor)
    return blake2b(modulation.detach().float().cpu().numpy().tobytes(), digest_size=8).hexdigest()


def sample_of(linear: nn.Linear) -> Tensor:
    """Weights of the layer as float32 on the CPU, the same places whatever its dtype."""
    flat = linear.weight.detach().flatten()
    return flat[:: max(flat.numel() // _NUM_WEIGHTS, 1)].float().cpu()


@torch.no_grad()
def calibrate(
    networks: Iterable[Wan], run: Callable[[], object], *, num_buckets: int = 1
) -> dict[str, Calibration]:
    """The ranges that the networks' layers meet while `run` makes clips, by `network_key`.

    Args:
        networks: both noise experts, say, or the one module whose weights become each in turn; unchanged by
            precision passes.
        run: must call their `forward`; prompts as they will be served are best.
    """
    observers = [(_Observer(num_buckets), network) for network in dict.fromkeys(networks)]
    with ExitStack() as hooks:
        for observer, network in observers:
            for handle in observer.hooks(network):
                hooks.callback(handle.remove)
        run()
    return {key: found for observer, _ in observers for key, found in observer.calibrations().items()}


class _Observer:
    """Of one module. Its ranges are kept by the key of the weights that it holds at each forward."""

    def __init__(self, num_buckets: int) -> None:
        self._num_buckets = num_buckets
        self._bucket = 0
        self._key = ""
        self._found: dict[str, dict[str, Ranges]] = {}

    def hooks(self, network: Wan) -> Iterable[torch.utils.hooks.RemovableHandle]:
        yield network.register_forward_pre_hook(self._enter)
        for name, _, _, linear in linears_of(changed_blocks("calibration", network, ()), ALL_TARGETS):
            yield linear.register_forward_pre_hook(partial(self._meet, name))

    def calibrations(self) -> dict[str, Calibration]:
        return {
            key: {name: _on_cpu(ranges) for name, ranges in found.items()}
            for key, found in self._found.items()
        }

    def _enter(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(network, Wan)
        # Both read the device, which calibration may.
        self._key = network_key(network)
        self._bucket = bucket_of(float(args[1].max()), self._num_buckets)

    def _meet(self, name: str, linear: nn.Linear, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().abs().float().flatten(0, -2)
        found = self._found.setdefault(self._key, {})
        if name not in found:
            found[name] = Ranges(
                peaks=x.new_zeros(self._num_buckets, linear.in_features),
                percentiles=x.new_zeros(self._num_buckets, len(PERCENTILES)),
                weights=sample_of(linear),
            )
        flat = x.flatten()
        some = flat[:: max(flat.numel() // _SAMPLE, 1)]
        levels = torch.tensor(PERCENTILES, device=x.device) / 100
        for kept, met in (
            (found[name].peaks, x.amax(0)),
            (found[name].percentiles, torch.quantile(some, levels)),
        ):
            kept[self._bucket] = torch.maximum(kept[self._bucket], met)


def _on_cpu(ranges: Ranges) -> Ranges:
    return Ranges(peaks=ranges.peaks.cpu(), percentiles=ranges.percentiles.cpu(), weights=ranges.weights)


def targets_of(found: Mapping[str, Calibration]) -> tuple[str, ...]:
    """Names of `rushes.passes.linears.TARGETS` whose layers were met, in its order."""
    layers = {name.split(".", 2)[2] for calibration in found.values() for name in calibration}
    return tuple(target for target, paths in TARGETS.items() if layers & set(paths))


def write_calibration(
    file: Path, found: Mapping[str, Calibration], about: Mapping[str, str] | None = None
) -> None:
    """Keep the ranges of a model's networks.

    Args:
        about: what they were measured with, in words; "model" is the name of the model's rules.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {}
    for key, calibration in found.items():
        for name, ranges in calibration.items():
            tensors[f"{key}/{name}/peaks"] = ranges.peaks.contiguous()
            tensors[f"{key}/{name}/percentiles"] = ranges.percentiles.contiguous()
            tensors[f"{key}/{name}/weights"] = ranges.weights.contiguous()
    try:
        save_file(tensors, file, metadata=dict(about or {}))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"calibration {file}: cannot be written ({error})") from error


def read_all(file: Path) -> tuple[dict[str, Calibration], dict[str, str]]:
    """The ranges of all networks by `network_key`, and what they were measured with. Raises `ConfigError`:
    no file, or no calibration."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = dict(opened.metadata() or {})
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"calibration {file}: cannot be read ({error})") from error
    found: dict[str, dict[str, Ranges]] = {}
    for key, name in (tuple(each.split("/")[:2]) for each in tensors if each.endswith("/peaks")):
        try:
            found.setdefault(key, {})[name] = Ranges(
                peaks=tensors[f"{key}/{name}/peaks"],
                percentiles=tensors[f"{key}/{name}/percentiles"],
                weights=tensors[f"{key}/{name}/weights"],
            )
        except KeyError as error:
            raise ConfigError(f"calibration {file}: lacks {error}; make it again") from error
    if not found:
        raise ConfigError(f"calibration {file}: holds no ranges; make it with `rushes calibrate`")
    return dict(found), about


def read_calibration(file: Path, network: Wan) -> Calibration:
    """The ranges of this network. Raises `ConfigError`: no file, no calibration, one of other weights."""
    everything, about = read_all(file)
    key = network_key(network)
    if key not in everything:
        model = f" of {about['model']}" if "model" in about else ""
        raise ConfigError(
            f"calibration {file}: made for other weights{model} than this network's ({key});"
            " run `rushes calibrate` for this model"
        )
    found = everything[key]
    _check_weights(file, network, found)
    return found


def _check_weights(file: Path, network: Wan, found: Calibration) -> None:
    """Of the layers that no other pass has replaced."""
    for name, ranges in found.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            continue
        sample = sample_of(layer)
        is_same = sample.shape == ranges.weights.shape and torch.allclose(
            sample, ranges.weights, rtol=_ROUNDING, atol=1e-7
        )
        if not is_same:
            raise ConfigError(f"calibration {file}: made for other weights than this network's {name}")
