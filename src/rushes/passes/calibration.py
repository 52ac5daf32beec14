"""How large the inputs of linear layers get, by noise expert, layer and timestep: measured once, in a file.

A file is safetensors: `KEY/LAYER/peaks` float32 [S, K], the largest magnitude of each of K channels in each
of S timestep buckets, `KEY/LAYER/percentiles` [S, P], of all magnitudes, and `KEY/LAYER/weights`, a sample of
the layer's weights. KEY is `network_key`, so a noise expert finds its own ranges; those of other weights, as
of a fine-tune or a LoRA, are refused. A bucket that no forward met holds zeros.
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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.phase import PLAIN, Phase
from rushes.models.wan import Wan
from rushes.passes.blocks import changed_blocks
from rushes.passes.linears import ALL_TARGETS, linears_of

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
        networks: both noise experts, say; unchanged by precision passes.
        run: must call their `forward`; prompts as they will be served are best.
    """
    observers = {network_key(network): (_Observer(num_buckets), network) for network in networks}
    with ExitStack() as hooks:
        for observer, network in observers.values():
            for handle in observer.hooks(network):
                hooks.callback(handle.remove)
        run()
    return {key: observer.calibration() for key, (observer, _) in observers.items()}


class _Observer:
    def __init__(self, num_buckets: int) -> None:
        self._num_buckets = num_buckets
        self._bucket = 0
        self._peaks: dict[str, Tensor] = {}
        self._percentiles: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def hooks(self, network: Wan) -> Iterable[torch.utils.hooks.RemovableHandle]:
        yield network.register_forward_pre_hook(self._enter)
        for name, _, _, linear in linears_of(changed_blocks("calibration", network, ()), ALL_TARGETS):
            yield linear.register_forward_pre_hook(partial(self._meet, name))

    def calibration(self) -> Calibration:
        return {
            name: Ranges(
                peaks=peaks.cpu(), percentiles=self._percentiles[name].cpu(), weights=self._weights[name]
            )
            for name, peaks in self._peaks.items()
        }

    def _enter(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        # Reads the device, which calibration may.
        self._bucket = bucket_of(float(args[1].max()), self._num_buckets)

    def _meet(self, name: str, linear: nn.Linear, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().abs().float().flatten(0, -2)
        if name not in self._peaks:
            self._peaks[name] = x.new_zeros(self._num_buckets, linear.in_features)
            self._percentiles[name] = x.new_zeros(self._num_buckets, len(PERCENTILES))
            self._weights[name] = sample_of(linear)
        flat = x.flatten()
        some = flat[:: max(flat.numel() // _SAMPLE, 1)]
        levels = torch.tensor(PERCENTILES, device=x.device) / 100
        for kept, met in (
            (self._peaks[name], x.amax(0)),
            (self._percentiles[name], torch.quantile(some, levels)),
        ):
            kept[self._bucket] = torch.maximum(kept[self._bucket], met)


def write_calibration(file: Path, found: Mapping[str, Calibration]) -> None:
    """Keep the ranges of a model's networks."""
    tensors = {}
    for key, calibration in found.items():
        for name, ranges in calibration.items():
            tensors[f"{key}/{name}/peaks"] = ranges.peaks.contiguous()
            tensors[f"{key}/{name}/percentiles"] = ranges.percentiles.contiguous()
            tensors[f"{key}/{name}/weights"] = ranges.weights.contiguous()
    save_file(tensors, file)


def read_calibration(file: Path, network: Wan) -> Calibration:
    """The ranges of this network. Raises `ConfigError`: no file, no calibration, one of other weights."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"calibration {file}: cannot be read ({error})") from error
    key = network_key(network)
    names = {name.split("/")[1] for name in tensors if name.startswith(f"{key}/") and name.endswith("/peaks")}
    if not names:
        raise ConfigError(f"calibration {file}: made for other weights than this network's ({key})")
    try:
        found = {
            name: Ranges(
                peaks=tensors[f"{key}/{name}/peaks"],
                percentiles=tensors[f"{key}/{name}/percentiles"],
                weights=tensors[f"{key}/{name}/weights"],
            )
            for name in names
        }
    except KeyError as error:
        raise ConfigError(f"calibration {file}: lacks {error}; make it again") from error
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
