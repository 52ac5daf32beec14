"""A stream in the making, which keeps every label true."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rushes.profiling.workloads.base import Kind, LabelledPrompt
from rushes.profiling.workloads.scenes import SLOTS, Scene, Wording, draw_wording, edits, sentence

MAX_DRAWS = 10_000

T = TypeVar("T")


class History:
    """Appends requests one by one. A text names one scene; a new scene is at least two slots away from every
    earlier one; what is called an edit or a rewording was not there before.

    Args:
        chance: what draws words and values.
        reserved: texts that no drawn wording may take.
    """

    def __init__(self, chance: random.Random, reserved: Iterable[str] = ()) -> None:
        self.prompts: list[LabelledPrompt] = []
        self._chance = chance
        self._taken = set(reserved)
        self._scenes: set[Scene] = set()
        self._nearby: set[tuple[object, ...]] = set()

    def new(self, draw: Callable[[], Scene], wording: Wording, group: int) -> LabelledPrompt:
        """A request that has to do with none before it."""
        scene = until(draw, lambda scene: self._nearby.isdisjoint(_without_one_slot(scene)))
        return self._append(scene, wording, "new", group)

    def repeat(self, of: LabelledPrompt) -> LabelledPrompt:
        """The same once more."""
        return self._append(of.scene, of.wording, "exact", of.group, of)

    def reword(self, of: LabelledPrompt, wording: Wording | None = None) -> LabelledPrompt:
        """The same scene in words that nobody used for it yet: these, or drawn ones."""
        return self._append(of.scene, wording or self.fresh_wording(of.scene), "rewording", of.group, of)

    def edit(self, of: LabelledPrompt, slot: str) -> LabelledPrompt:
        """The same words but for one slot, which makes one of `possible_edits`."""
        scene = self._chance.choice(self.possible_edits(of, slot))
        return self._append(scene, of.wording, "edit", of.group, of, slot)

    def possible_edits(self, of: LabelledPrompt, slot: str) -> list[Scene]:
        """Scenes that differ from an earlier one in this slot and were not there before."""
        return [
            scene
            for scene in edits(of.scene, slot)
            if scene not in self._scenes and sentence(scene, of.wording) not in self._taken
        ]

    def fresh_wording(self, scene: Scene) -> Wording:
        """Words that nobody used for this scene yet and that are not reserved."""
        return until(
            lambda: draw_wording(self._chance), lambda words: sentence(scene, words) not in self._taken
        )

    def _append(
        self,
        scene: Scene,
        wording: Wording,
        kind: Kind,
        group: int,
        of: LabelledPrompt | None = None,
        slot: str | None = None,
    ) -> LabelledPrompt:
        made = LabelledPrompt(
            number=len(self.prompts),
            prompt=sentence(scene, wording),
            scene=scene,
            wording=wording,
            kind=kind,
            of=of.number if of else None,
            slot=slot,
            group=group,
        )
        self.prompts.append(made)
        self._taken.add(made.prompt)
        self._scenes.add(scene)
        self._nearby.update(_without_one_slot(scene))
        return made


def _without_one_slot(scene: Scene) -> Iterator[tuple[object, ...]]:
    """A key for each slot, which all scenes that differ in no other slot have too."""
    for left_out in SLOTS:
        yield (left_out, *(getattr(scene, slot) for slot in SLOTS if slot != left_out))


def until(draw: Callable[[], T], is_good: Callable[[T], bool]) -> T:
    """The first good one that is drawn."""
    for _ in range(MAX_DRAWS):
        found = draw()
        if is_good(found):
            return found
    raise AssertionError("the vocabulary is too small for this stream")
