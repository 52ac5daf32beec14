"""What the toy's list of equal words lets through, rightly and wrongly.

    python -m benchmarks.reuse_synonyms              # writes benchmarks/results/reuse_synonyms.json, 1 minute
    python -m benchmarks.reuse_synonyms --pairs 200 --output /dev/null

Three sets: the committed pairs (tests/reuse/pairs/held_out); random pairs of two scenes of the workloads that
differ in one slot, each said in words of its own; random pairs of one scene. All are judged as a look-up
judges them, by similarity and the meaning guard, with the list and without. The exit status is 1 when a pair
of two meanings is a hit with the list. The scenes are said in words that the list was made from: of other
words beside them it tells nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reuse_pairs import PAIRS, read_pairs, upper_bound

from rushes.models.prompts import clean_prompt
from rushes.profiling.workloads.scenes import SLOTS, draw_scene, draw_wording, edits, sentence, values_of
from rushes.reuse.encoder import SentenceEncoder
from rushes.reuse.guard import differs
from rushes.reuse.latent_cache import THRESHOLD
from rushes.reuse.synonyms import NO_SYNONYMS, Synonyms
from rushes.server.reuse_setup import synonyms_by_pipeline

OUTPUT = Path("benchmarks/results/reuse_synonyms.json")
NUM_PAIRS = 4200
PLAIN = 0.5
"""Of random scenes: one small or large subject, or several, or a moving camera, in the others."""

Pair = tuple[str, bool, str, str]
"""Kind, whether one clip serves both, one prompt, the other."""


def scene_pairs(num: int) -> Iterator[Pair]:
    """As many of each slot, half of them in the same words but for the slot; then a fifth as many of one
    scene in two wordings."""
    chance = random.Random("equal words")
    for number in range(num):
        slot = SLOTS[number % len(SLOTS)]
        scene = _scene(chance)
        wording = draw_wording(chance)
        another = wording if number % 2 else draw_wording(chance)
        other = chance.choice(edits(scene, slot))
        yield slot, False, sentence(scene, wording), sentence(other, another)
    for _ in range(num // 5):
        scene = _scene(chance)
        yield "one scene", True, *(sentence(scene, draw_wording(chance)) for _ in range(2))


def _scene(chance: random.Random) -> Any:
    scene = draw_scene(chance)
    if chance.random() < PLAIN:
        return scene
    slot = chance.choice(("count", "size", "camera"))
    return type(scene)(
        **{name: getattr(scene, name) for name in SLOTS} | {slot: chance.choice(values_of(slot))}
    )


def judged(pairs: list[Pair], synonyms: Synonyms, encoder: SentenceEncoder) -> dict[str, Any]:
    """Hits by kind, and the rate of false ones with its bound."""
    num: Counter[tuple[str, bool]] = Counter()
    hits: Counter[tuple[str, bool]] = Counter()
    wrong: list[str] = []
    for kind, is_same, *prompts in pairs:
        one, other = (synonyms.canonical(clean_prompt(prompt)) for prompt in prompts)
        num[kind, is_same] += 1
        if differs(one, other) is None:
            first, second = encoder.encode([one, other])
            if float(first @ second) >= THRESHOLD:
                hits[kind, is_same] += 1
                wrong += [] if is_same else [" | ".join(prompts)]
    num_false = sum(count for (_, is_same), count in hits.items() if not is_same)
    num_other = sum(count for (_, is_same), count in num.items() if not is_same)
    return {
        "hits": {kind: f"{hits[kind, is_same]} of {count}" for (kind, is_same), count in num.items()},
        "false hits": num_false,
        "pairs of two meanings": num_other,
        "false rate, 95 % upper bound": upper_bound(num_false, num_other, 0.95),
        "false": wrong[:20],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="of scenes that differ")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    encoder, lists = (
        SentenceEncoder(),
        {"with list": synonyms_by_pipeline(None)("toy"), "without": NO_SYNONYMS},
    )
    sets = {"committed pairs": list(read_pairs(PAIRS / "held_out")), "scenes": list(scene_pairs(args.pairs))}
    report = {
        name: {which: judged(pairs, synonyms, encoder) for which, synonyms in lists.items()}
        for name, pairs in sets.items()
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, found in report.items():
        for which, told in found.items():
            print(
                f"{name}, {which}: {told['hits']}; false {told['false hits']} of"
                f" {told['pairs of two meanings']}, below {told['false rate, 95 % upper bound']:.3%}"
            )
    return 1 if any(found["with list"]["false hits"] for found in report.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
