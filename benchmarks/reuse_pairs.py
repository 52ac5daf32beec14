"""Which pairs of prompts would share a video: by similarity, and by similarity and the meaning guard.

    python -m benchmarks.reuse_pairs                 # writes benchmarks/results/reuse_pairs.json
    python -m benchmarks.reuse_pairs --show          # and each pair that was judged wrong
    python -m benchmarks.reuse_pairs --set tuning --output /dev/null

The pairs and their labels are in tests/reuse/pairs. The exit status is 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes.models.prompts import clean_prompt
from rushes.reuse.encoder import SentenceEncoder
from rushes.reuse.guard import differs
from rushes.reuse.latent_cache import THRESHOLD

PAIRS = Path("tests/reuse/pairs")
OUTPUT = Path("benchmarks/results/reuse_pairs.json")
THRESHOLDS = (0.8, 0.85, 0.9, THRESHOLD, 0.95, 0.97)
GOAL_KINDS = ("reordering", "inflection")
LEAST_TRUE = 0.8
MOST_FALSE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One pair.

    Attributes:
        difference: what the guard says; None when it lets the pair pass.
    """

    kind: str
    is_same: bool
    one: str
    other: str
    similarity: float
    difference: str | None

    def is_hit(self, threshold: float = THRESHOLD, *, is_guarded: bool = True) -> bool:
        return self.similarity >= threshold and not (is_guarded and self.difference)


def read_pairs(folder: Path) -> Iterator[tuple[str, bool, str, str]]:
    """(kind, whether one video serves both, one prompt, the other)."""
    for file in sorted(folder.glob("*/*.txt")):
        for line in file.read_text("utf-8").splitlines():
            one, other = line.split(" | ")
            yield file.stem, file.parent.name == "same", one, other


def judge(folder: Path) -> list[Judged]:
    """Every pair of a folder, as a look-up would judge it."""
    encoder, found = SentenceEncoder(), []
    for kind, is_same, *pair in read_pairs(folder):
        one, other = (clean_prompt(prompt) for prompt in pair)
        first, second = encoder.encode([one, other])
        found.append(
            Judged(
                kind=kind,
                is_same=is_same,
                one=one,
                other=other,
                similarity=float(first @ second),
                difference=differs(one, other),
            )
        )
    return found


def upper_bound(hits: int, total: int, confidence: float) -> float:
    """The rate that as few hits or fewer have with probability 1 - confidence (Clopper and Pearson, 1934)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        at_most = sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(hits + 1))
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return high


def rates(judged: Sequence[Judged], *, is_same: bool) -> list[dict[str, Any]]:
    """One row a kind: how many pass what."""
    kinds = dict.fromkeys(one.kind for one in judged if one.is_same == is_same)
    rows = []
    for kind in kinds:
        of_kind = [one for one in judged if one.kind == kind]
        rows.append(
            {
                "kind": kind,
                "pairs": len(of_kind),
                "similar": sum(one.similarity >= THRESHOLD for one in of_kind),
                "passed by the guard": sum(one.difference is None for one in of_kind),
                "hits": sum(one.is_hit() for one in of_kind),
                "hit rate": sum(one.is_hit() for one in of_kind) / len(of_kind),
            }
        )
    return rows


def by_threshold(judged: Sequence[Judged]) -> list[dict[str, float]]:
    """True and false hits with and without the guard."""
    same, other = ([one for one in judged if one.is_same == label] for label in (True, False))
    rows = []
    for threshold in THRESHOLDS:
        row = {"threshold": threshold}
        for name, is_guarded in (("", False), (" guarded", True)):
            for label, pairs in (("true", same), ("false", other)):
                hits = sum(one.is_hit(threshold, is_guarded=is_guarded) for one in pairs)
                row[f"{label}{name}"] = round(hits / len(pairs), 4)
        rows.append(row)
    return rows


def report(judged: Sequence[Judged]) -> dict[str, Any]:
    """All figures and the verdicts."""
    same, other = rates(judged, is_same=True), rates(judged, is_same=False)
    num, total = sum(row["hits"] for row in other), sum(row["pairs"] for row in other)
    true_rates = {row["kind"]: row["hit rate"] for row in same}
    verdicts = {f"{kind}: true hits": true_rates[kind] >= LEAST_TRUE for kind in GOAL_KINDS}
    verdicts["false hits"] = num / total <= MOST_FALSE
    return {
        "threshold": THRESHOLD,
        "same": same,
        "other": other,
        "false hits": num,
        "false pairs": total,
        "false rate": num / total,
        "false rate, 95 % upper bound": upper_bound(num, total, 0.95),
        "false rate, upper end of the two-sided 95 % interval": upper_bound(num, total, 0.975),
        "by threshold": by_threshold(judged),
        "verdicts": verdicts,
    }


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    yield f"{'kind':<14}{'pairs':>6}{'similar':>9}{'guard':>7}{'hits':>6}{'rate':>8}"
    for label in ("same", "other"):
        for row in figures[label]:
            counts = f"{row['pairs']:>6}{row['similar']:>9}{row['passed by the guard']:>7}{row['hits']:>6}"
            yield f"{row['kind']:<14}{counts}{row['hit rate']:>8.1%}  {label}"
    bounds = [figures[name] for name in figures if name.startswith("false rate,")]
    yield (
        f"false hits {figures['false hits']} of {figures['false pairs']}: {figures['false rate']:.2%}; "
        f"95 % upper bound {bounds[0]:.2%}, two-sided interval up to {bounds[1]:.2%} (Clopper-Pearson)"
    )
    for row in figures["by threshold"]:
        yield "  ".join(f"{name} {value:g}" for name, value in row.items())
    for name, is_met in figures["verdicts"].items():
        yield f"{'met' if is_met else 'MISSED':<7}{name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", default="held_out", choices=("held_out", "tuning"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    judged = judge(PAIRS / args.set)
    figures = report(judged)
    args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(*lines(figures), sep="\n")
    if args.show:
        for one in judged:
            if one.is_hit() != one.is_same:
                why = one.difference or "similarity"
                print(f"{one.kind:<12}{one.similarity:.3f}  {one.one} | {one.other}  ({why})")
    return 0 if all(figures["verdicts"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
