"""What everybody asks for: four fifths of the requests fall on one fifth of the topics."""

from __future__ import annotations

import random

from rushes.profiling.workloads.base import LabelledPrompt, Workload
from rushes.profiling.workloads.history import History
from rushes.profiling.workloads.scenes import Scene, Wording, draw_scene, draw_wording, sentence

NUM_REQUESTS = 5000  # with fewer, most topics would come up for the first time
NUM_TOPICS = 1000
NUM_HOT = 200
HOT_SHARE = 0.8  # of requests fall on the hot topics
EXACT_SHARE = 0.6  # of requests say their topic in its own words; the others reword it


class _Topics:
    """The topics, each a scene and its own words, and what was said of them so far."""

    def __init__(self, chance: random.Random) -> None:
        drawn = History(chance)  # keeps them apart from each other
        for number in range(NUM_TOPICS):
            drawn.new(lambda: draw_scene(chance), draw_wording(chance), number)
        self._own = [(topic.scene, topic.wording) for topic in drawn.prompts]
        self.history = History(chance, (sentence(*own) for own in self._own))
        self._first: dict[int, LabelledPrompt] = {}
        self._said: dict[int, LabelledPrompt] = {}  # the first request in a topic's own words

    def ask(self, number: int, *, is_exact: bool) -> None:
        """One more request for a topic; its first is new whatever its words are."""
        scene, own = self._own[number]
        if is_exact and number in self._said:
            self.history.repeat(self._said[number])
            return
        made = self._say(number, scene, own if is_exact else None)
        self._first.setdefault(number, made)
        if is_exact:
            self._said[number] = made

    def _say(self, number: int, scene: Scene, words: Wording | None) -> LabelledPrompt:
        if number in self._first:
            return self.history.reword(self._first[number], words)
        return self.history.new(lambda: scene, words or self.history.fresh_wording(scene), number)


def make(seed: int) -> tuple[LabelledPrompt, ...]:
    """The stream. No rewording is used twice."""
    chance = random.Random(f"hot-80-20 {seed}")
    topics = _Topics(chance)
    is_hot, is_exact = _deck(HOT_SHARE, chance), _deck(EXACT_SHARE, chance)
    for hot, exact in zip(is_hot, is_exact, strict=True):
        number = chance.randrange(NUM_HOT) if hot else chance.randrange(NUM_HOT, NUM_TOPICS)
        topics.ask(number, is_exact=exact)
    return tuple(topics.history.prompts)


def _deck(share: float, chance: random.Random) -> list[bool]:
    """True for this share of the requests, in random order."""
    num_true = round(share * NUM_REQUESTS)
    deck = [True] * num_true + [False] * (NUM_REQUESTS - num_true)
    chance.shuffle(deck)
    return deck


HOT_80_20 = Workload(
    name="hot-80-20",
    title="5,000 requests for 1,000 topics: 80 % on 200 of them; 60 % in a topic's own words, 40 % reworded",
    num_requests=NUM_REQUESTS,
    make=make,
    lane="interactive",
    preview_every=1,
)
