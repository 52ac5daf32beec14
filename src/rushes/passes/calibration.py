"""How large the inputs of linear layers get, by noise expert, layer and timestep: measured once, in a file.

A file is safetensors: `KEY/LAYER/peaks` float32 [S, K], the largest magnitude of each of K channels in each
of S timestep buckets, and `KEY/LAYER/percentiles` [S, P], of all magnitudes. KEY is `network_key`, so a noise
expert finds its own ranges, and those of other weights are refused. A bucket that no forward met holds zeros.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Of the inputs of one layer.

    Attributes:
        peaks: float32 [S, K].
        percentiles: float32 [S, len(PERCENTILES)].
    """

    peaks: Tensor
    percentiles: Tensor


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

    def hooks(self, network: Wan) -> Iterable[torch.utils.hooks.RemovableHandle]:
        yield network.register_forward_pre_hook(self._enter)
        for name, _, _, linear in linears_of(changed_blocks("calibration", network, ()), ALL_TARGETS):
            yield linear.register_forward_pre_hook(partial(self._meet, name))

    def calibration(self) -> Calibration:
        return {
            name: Ranges(peaks=peaks.cpu(), percentiles=self._percentiles[name].cpu())
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
    return {
        name: Ranges(peaks=tensors[f"{key}/{name}/peaks"], percentiles=tensors[f"{key}/{name}/percentiles"])
        for name in names
    }
