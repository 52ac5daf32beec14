"""Advertisements from templates: the same few sentences with other products, places and colours in them."""

from __future__ import annotations

import itertools
import random

from rushes.profiling.workloads.base import Kind, LabelledPrompt, Workload
from rushes.profiling.workloads.history import History, until
from rushes.profiling.workloads.scenes import Scene, Wording, draw_scene, draw_wording, values_of

NUM_REQUESTS = 2000
NUM_TEMPLATES = 50
SLOTS = ("subject", "colour", "motion", "background")
SHARES: dict[Kind, float] = {"exact": 0.45, "rewording": 0.25, "edit": 0.15, "new": 0.15}


def make(seed: int) -> tuple[LabelledPrompt, ...]:
    """The stream. What is repeated, reworded or edited is drawn from all requests so far, so that what was
    asked often is asked more often still."""
    chance = random.Random(f"templated-ads {seed}")
    history, templates = History(chance), _templates(chance)
    groups = itertools.cycle(range(NUM_TEMPLATES))
    for kind in _deck(chance):
        if kind == "new":
            _new(history, templates, next(groups), chance)
        elif kind == "exact":
            history.repeat(chance.choice(history.prompts))
        elif kind == "rewording":
            history.reword(chance.choice(history.prompts))
        else:
            history.edit(*_editable(history, chance))
    return tuple(history.prompts)


def _new(history: History, templates: list[tuple[Scene, Wording]], group: int, chance: random.Random) -> None:
    scene, wording = templates[group]
    history.new(lambda: draw_scene(chance, scene), wording, group)


def _editable(history: History, chance: random.Random) -> tuple[LabelledPrompt, str]:
    """A request and one of its slots that has a value left: six colours are soon used up."""
    return until(
        lambda: (chance.choice(history.prompts), chance.choice(SLOTS)),
        lambda pair: bool(history.possible_edits(*pair)),
    )


def _templates(chance: random.Random) -> list[tuple[Scene, Wording]]:
    """Everything but the four slots, no two alike."""
    templates: dict[tuple[object, ...], tuple[Scene, Wording]] = {}
    while len(templates) < NUM_TEMPLATES:
        fixed = {slot: chance.choice(values_of(slot)) for slot in ("count", "size", "camera")}
        scene = Scene(subject=0, colour="red", motion="still", background="room", **fixed)  # type: ignore[arg-type]
        wording = draw_wording(chance)
        templates.setdefault((*fixed.values(), wording.pattern), (scene, wording))
    return list(templates.values())


def _deck(chance: random.Random) -> list[Kind]:
    """The kinds of all requests, in random order but for the first, which nothing precedes."""
    deck = [kind for kind, share in SHARES.items() for _ in range(round(share * NUM_REQUESTS))]
    chance.shuffle(deck)
    deck.remove("new")
    return ["new", *deck]


TEMPLATED_ADS = Workload(
    name="templated-ads",
    title="2,000 requests from 50 templates of 4 slots: 45 % exact, 25 % reworded, 15 % edits, 15 % new",
    num_requests=NUM_REQUESTS,
    make=make,
    lane="batch",
)
