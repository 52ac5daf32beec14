"""What the toy's judge says of toy clips: what it reads in them, and features to compare sets of clips by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rushes.config import TOY_FOLDER
from rushes.errors import InvalidRequest
from rushes.models.judge import FRAME_STRIDE, Judge, load_judge
from rushes.profiling.quality.frechet import project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Clip = NDArray[np.uint8]

JUDGE_FOLDER = TOY_FOLDER.parent / "judge"
ATTRIBUTES = ("subject", "background", "motion", "colour", "count")
JOINT = "all"
Z_95 = 1.959964
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Clips in which the judge reads what was asked for.

    Attributes:
        chance: the share that guessing gives.
    """

    right: int
    num: int
    chance: float

    @property
    def share(self) -> float:
        """Of 1."""
        return self.right / self.num

    @property
    def interval(self) -> tuple[float, float]:
        """See `wilson`."""
        return wilson(self.right, self.num)


def wilson(right: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, JASA 22, 1927).

    Example:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]
    """
    share, z2 = right / num, Z_95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z_95 * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2)) / (1 + z2 / num)
    return max(0.0, centre - half), min(1.0, centre + half)


class ClipJudge:
    """The judge over clips as they are decoded, one or a batch at a time.

    Args:
        judge: None loads the one that the package ships. Raises `CheckpointError` when that is damaged.
        device: where it looks at them.
    """

    def __init__(self, judge: Judge | None = None, device: torch.device = CPU) -> None:
        self._judge = (judge or load_judge(JUDGE_FOLDER)).to(device)
        self._device = device

    def can_read(self, num_frames: int) -> bool:
        """Whether it was trained on clips of this length."""
        return num_frames == self._judge.config.num_frames

    @torch.no_grad()
    def read(self, clip: Clip) -> dict[str, int]:
        """The class of each attribute in a clip, uint8 [T, H, W, 3]. Raises `InvalidRequest` for a clip of
        another length than the judge was trained on."""
        logits = self._judge.read(self._frames(torch.from_numpy(clip)[None]))
        return {name: int(values.argmax()) for name, values in logits.items()}

    @torch.no_grad()
    def features(self, clips: Tensor) -> NDArray[np.float64]:
        """64 numbers of each clip, uint8 [B, T, H, W, 3] on any device: mean and spread over time of what the
        judge's convolutions see, projected. Raises as `read`."""
        seen = self._judge.describe(self._frames(clips)).double()
        pooled = torch.cat([seen.mean(1), seen.std(1, correction=0)], dim=1)
        # .cpu(): the distance between sets is taken on the host.
        return project(pooled.cpu().numpy())

    def adherence(
        self, read: Sequence[Mapping[str, int]], asked: Sequence[Mapping[str, int]]
    ) -> dict[str, Share]:
        """How often the judge read what was asked, by attribute and for all of them together ("all")."""
        hits = {
            name: [each[name] == wanted[name] for each, wanted in zip(read, asked, strict=True)]
            for name in ATTRIBUTES
        }
        hits[JOINT] = [all(row) for row in zip(*hits.values(), strict=True)]
        chances = {name: 1 / self._judge.config.classes[name] for name in ATTRIBUTES}
        chances[JOINT] = math.prod(chances.values())
        return {name: Share(right=sum(row), num=len(row), chance=chances[name]) for name, row in hits.items()}

    def _frames(self, clips: Tensor) -> Tensor:
        """The frames that the judge looks at, [B, T, H, W, 3] -> [B, 3, T', H, W] in [-1, 1]."""
        num_frames = self._judge.config.num_frames
        if clips.shape[1] != num_frames:
            raise InvalidRequest(
                "num_frames", f"the judge reads clips of {num_frames} frames, got {clips.shape[1]}"
            )
        seen = clips[:, ::FRAME_STRIDE].to(self._device)
        return seen.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
