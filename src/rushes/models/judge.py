"""The judge: a small convolutional network that reads a toy clip's attributes, to score adherence to prompts.

It was trained on rendered clips alone and never saw a generated one (training/judge.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.errors import CheckpointError, did_you_mean
from rushes.models.at_rest import restore
from rushes.models.headers import read_json
from rushes.models.weights import open_store

FRAME_STRIDE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Classes of each attribute, and the widths of the four resolutions (1/4, 1/8, 1/16, 1/32 of the
    frame)."""

    classes: dict[str, int]
    widths: tuple[int, int, int, int] = (48, 96, 128, 192)
    num_frames: int = 33


class Residual(nn.Module):
    """Two 3x3 convolutions per frame, then a mixing of neighbouring frames, each with a residual."""

    def __init__(self, width: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.mix = nn.Conv1d(width, width, 3, padding=1, groups=4) if temporal else None

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """x [B*T, C, H, W]."""
        y = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(x + self.norm2(self.conv2(y)))
        if self.mix is None:
            return x
        _, channels, height, width = x.shape
        along = (
            x.view(-1, num_frames, channels, height * width)
            .permute(0, 3, 2, 1)
            .reshape(-1, channels, num_frames)
        )
        mixed = self.mix(along).view(-1, height * width, channels, num_frames).permute(0, 3, 2, 1)
        return x + F.relu(mixed.reshape(-1, channels, height, width))


class Judge(nn.Module):
    """Clips to logits per attribute."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4 = config.widths
        self.stem = nn.Conv2d(3, c1, 7, stride=4, padding=3)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((c1, c2), (c2, c3 - 2), (c3, c4))
        )
        self.stages = nn.ModuleList(
            [
                nn.ModuleList([Residual(c1, temporal=False), Residual(c1, temporal=False)]),
                nn.ModuleList([Residual(c2, temporal=False), Residual(c2, temporal=True)]),
                nn.ModuleList([Residual(c3, temporal=True), Residual(c3, temporal=True)]),
                nn.ModuleList([Residual(c4, temporal=True)]),
            ]
        )
        self.along1 = nn.Conv1d(2 * c4, 256, 3, stride=2, padding=1)
        self.along2 = nn.Conv1d(256, 192, 3, stride=2, padding=1)
        steps = (config.num_frames - 1) // FRAME_STRIDE // 4 + 1
        self.join = nn.Linear(192 * steps + 2 * c4, 320)
        self.heads = nn.ModuleDict({name: nn.Linear(320, count) for name, count in config.classes.items()})

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Read clips.

        Args:
            video: [B, 3, T, H, W] in [-1, 1]; every second frame is looked at.

        Returns:
            logits [B, classes] by attribute.
        """
        return self.read(video[:, :, ::FRAME_STRIDE])

    def read(self, frames: Tensor) -> dict[str, Tensor]:
        """The same for clips of which only every second frame was drawn, [B, 3, (T+1)/2, H, W]."""
        pooled = self.describe(frames)
        along = F.relu(self.along2(F.relu(self.along1(pooled.transpose(1, 2)))))
        joined = F.relu(self.join(torch.cat([along.flatten(1), pooled.mean(1)], 1)))
        return {name: head(joined) for name, head in self.heads.items()}

    def describe(self, frames: Tensor) -> Tensor:
        """What the convolutions see in each frame, [B, 3, T, H, W] -> [B, T, 2 * widths[-1]]."""
        frames = frames.transpose(1, 2)
        batch, num_frames = frames.shape[:2]
        x = self.stem(frames.flatten(0, 1))
        for level, blocks in enumerate(self.stages):
            if level:
                x = self.downs[level - 1](F.relu(x))
            if level == 2:  # from here on a cell knows where it is, so that pooling keeps positions
                x = torch.cat([x, _coordinates(x)], 1)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, num_frames)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1).view(batch, num_frames, -1)


def _coordinates(x: Tensor) -> Tensor:
    """[N, 2, H, W] of y and x in [-1, 1] for every cell of `x`."""
    height, width = x.shape[-2:]
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
    shape = (x.shape[0], 1, height, width)
    return torch.cat([ys.expand(shape), xs.expand(shape)], 1)


def load_judge(folder: Path) -> Judge:
    """The judge of a folder, float32 on the CPU, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, unexpected or misshapen.
    """
    judge = Judge(_config_from_dict(read_json(folder / "config.json")))
    with open_store([folder / "model.safetensors"], torch.device("cpu")) as store:
        stored = {name: store.read(name) for name in store.headers}
    state = {name: restore(stored, name) for name in stored if not name.endswith(".scale")}
    wanted = {name: tensor for name, tensor in judge.state_dict().items() if tensor.is_floating_point()}
    for name in sorted(state.keys() ^ wanted.keys()):
        fault = "is missing" if name in wanted else "is unexpected"
        raise CheckpointError(f"judge: tensor {name!r} {fault}{did_you_mean(name, state.keys() - {name})}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            shapes = f"{list(state[name].shape)}; config.json asks for {list(tensor.shape)}"
            raise CheckpointError(f"judge: wrong shape of {name}: {shapes}")
    # strict=False: the batch norms' counters of training steps are not stored
    judge.load_state_dict(state, strict=False)
    return judge.eval().requires_grad_(False)


def _config_from_dict(raw: dict[str, Any]) -> JudgeConfig:
    try:
        c1, c2, c3, c4 = raw["widths"]
        return JudgeConfig(classes=raw["classes"], widths=(c1, c2, c3, c4), num_frames=raw["num_frames"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"judge config: needs classes, four widths and num_frames ({error})") from error
