"""What a workload is: a fixed stream of labelled prompts, and how its requests are asked."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rushes.profiling.workloads.scenes import Scene, Wording
from rushes.registry import Registry
from rushes.types import JobOptions, Lane

Kind = Literal["new", "exact", "rewording", "edit"]
KINDS: tuple[Kind, ...] = ("exact", "rewording", "edit", "new")
"""From the cheapest to serve again to the dearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPrompt:
    """One request of a workload and what it has to do with those before it.

    Attributes:
        number: its place in the stream, from 0.
        scene: what the clip shall show.
        wording: how the prompt says so.
        kind: "exact", the same text and seed as an earlier one; "rewording", other words for the scene of an
            earlier one; "edit", an earlier one with one slot changed; "new", none of these.
        of: number of the earlier one, None for a new one.
        slot: what an edit changed.
        group: the template, topic or script that it belongs to, from 0.
    """

    number: int
    prompt: str
    scene: Scene
    wording: Wording
    kind: Kind
    of: int | None = None
    slot: str | None = None
    group: int = 0

    @property
    def seed(self) -> int:
        """CRC-32 of the prompt: who repeats a text repeats its seed, other words come with another one."""
        return zlib.crc32(self.prompt.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A stream of requests with fixed parameters.

    Attributes:
        title: one line for lists and reports.
        num_requests: of the whole stream.
        make: the stream, drawn with this seed; `prompts` calls it.
        lane: of its jobs.
        preset: sampling settings that its clips ask for, None for the model's default.
        preview_every: solver steps between two previews that its clients ask for; 0 for none.
        seed: of the stream.
    """

    name: str
    title: str
    num_requests: int
    make: Callable[[int], tuple[LabelledPrompt, ...]]
    lane: Lane
    preset: str | None = None
    preview_every: int = 0
    seed: int = 0

    def prompts(self, num: int | None = None) -> tuple[LabelledPrompt, ...]:
        """The stream, or its first `num` requests: the beginning, with the mix that a beginning has."""
        return self.make(self.seed)[:num]

    @property
    def options(self) -> JobOptions:
        """How its jobs are treated."""
        return JobOptions(lane=self.lane, preview_every=self.preview_every)


WORKLOADS = Registry(
    "workload",
    {
        "interactive": "rushes.profiling.workloads.plain:INTERACTIVE",
        "batch": "rushes.profiling.workloads.plain:BATCH",
        "templated-ads": "rushes.profiling.workloads.templated_ads:TEMPLATED_ADS",
        "hot-80-20": "rushes.profiling.workloads.hot_topics:HOT_80_20",
        "previs": "rushes.profiling.workloads.scripts:PREVIS",
        "lesson": "rushes.profiling.workloads.scripts:LESSON",
        "presenter": "rushes.profiling.workloads.scripts:PRESENTER",
    },
    group="rushes.workloads",
)


def load_workload(name: str) -> Workload:
    """The workload of this name. Raises `UnknownName`.

    Example:
        >>> load_workload("templated-ads").num_requests
        2000
    """
    workload: Workload = WORKLOADS.load(name)
    return workload
