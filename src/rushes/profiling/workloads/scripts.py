"""Short scripts of shots: a film planned before it is shot, a lesson, a presenter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rushes.profiling.workloads.base import LabelledPrompt, Workload
from rushes.profiling.workloads.history import History
from rushes.profiling.workloads.scenes import Scene, draw_scene, draw_wording
from rushes.types import Lane

Act = Literal["edit", "reword", "repeat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A shot of a script after its first.

    Attributes:
        of: the shot of this script, from 0, that it comes from.
        slot: what an edit changes.
    """

    act: Act
    of: int
    slot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the scripts of one workload have in common.

    Attributes:
        first: what the first shots show beside a random subject, colour, motion and background.
        shots: those after the first.
        num_scripts: how many there are.
        scripts_per_opening: so many scripts, one after another, begin with the very same shot.
    """

    first: Scene
    shots: tuple[Shot, ...]
    num_scripts: int
    scripts_per_opening: int = 1

    @property
    def num_requests(self) -> int:
        """Of the whole stream."""
        return self.num_scripts * (1 + len(self.shots))


ANY = Scene(subject=0, colour="red", motion="still", background="room")


def _edit(of: int, slot: str) -> Shot:
    return Shot(act="edit", of=of, slot=slot)


PREVIS_SCRIPT = Script(
    first=replace(ANY, camera="zoom out"),
    shots=(
        _edit(0, "camera"),
        _edit(1, "motion"),
        _edit(2, "camera"),
        Shot(act="reword", of=2),  # the director asks for the same again, in other words
        _edit(0, "background"),  # "same, but in the snow"
    ),
    num_scripts=20,
)
LESSON_SCRIPT = Script(
    first=ANY,
    shots=(
        _edit(0, "count"),
        _edit(0, "count"),
        _edit(0, "motion"),
        Shot(act="reword", of=0),
        Shot(act="repeat", of=0),  # the recapitulation
    ),
    num_scripts=20,
)
PRESENTER_SCRIPT = Script(
    first=replace(ANY, size="big"),
    shots=(_edit(0, "motion"), _edit(0, "background"), Shot(act="repeat", of=0)),  # and the same at the end
    num_scripts=20,
    scripts_per_opening=4,
)


def make(name: str, script: Script, seed: int) -> tuple[LabelledPrompt, ...]:
    """The stream: script after script, shot after shot."""
    chance = random.Random(f"{name} {seed}")
    history = History(chance)
    opening: LabelledPrompt | None = None
    for number in range(script.num_scripts):
        if opening is None or number % script.scripts_per_opening == 0:
            opening = history.new(lambda: draw_scene(chance, script.first), draw_wording(chance), number)
            first = opening
        else:
            first = history.repeat(opening)
        _shoot(history, first, script.shots)
    return tuple(history.prompts)


def _shoot(history: History, first: LabelledPrompt, shots: Sequence[Shot]) -> None:
    """The shots after the first."""
    made = [first]
    for shot in shots:
        of = made[shot.of]
        if shot.act == "repeat":
            made.append(history.repeat(of))
        elif shot.act == "reword":
            made.append(history.reword(of))
        else:
            assert shot.slot is not None, "an edit changes a slot"
            made.append(history.edit(of, shot.slot))


def _workload(name: str, title: str, script: Script, lane: Lane) -> Workload:
    return Workload(
        name=name,
        title=title,
        num_requests=script.num_requests,
        make=lambda seed: make(name, script, seed),
        lane=lane,
        preview_every=int(lane == "interactive"),
    )


PREVIS = _workload(
    "previs",
    "20 scripts of 6 shots: camera, motion and place of one scene changed shot by shot, one shot said anew",
    PREVIS_SCRIPT,
    "interactive",
)
LESSON = _workload(
    "lesson",
    "20 scripts of 6 shots: one subject counted, then moving otherwise, said anew and repeated",
    LESSON_SCRIPT,
    "batch",
)
PRESENTER = _workload(
    "presenter",
    "20 scripts of 4 shots: 5 presenters whose opening is the same in 4 scripts and closes each",
    PRESENTER_SCRIPT,
    "interactive",
)
