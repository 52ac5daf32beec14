"""The judge's row of unseen synonyms after a change of the lexicon, without a GPU.

    python -m benchmarks.judge_synonyms --against OLD_LEXICON     # the one that the table's row was made with

A prompt that both lexicons read alike makes the same clip of the same weights and seed, so the table's row
(`judge_full.json`, made on a GPU) still holds for it. Those that are read differently are generated here with
either reading; the row is the table's, less what was right among them before, plus what is right now.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.judge_clips import Bench, generate, joined, open_bench, read, to_video
from benchmarks.judge_report import BARS, COLUMNS, JOINT, Figure, Report, Row
from benchmarks.judge_rows import GENERATED, NUM_SYNONYMS
from training.clips import labels_of
from training.world.prompts import Prompts, synonym_prompts
from training.world.subjects import subjects

from rushes.models.lexicon import LEXICON, Lexicon, read_lexicon
from rushes.profiling.quality.judged import ATTRIBUTES

ASSETS = Path("src/rushes/assets")
TABLE = Path("benchmarks/results/judge_full.json")
OUT = Path("benchmarks/results/judge_synonyms_cpu.json")
TITLE = "unseen synonyms, today's lexicon"
TITLE_BEFORE = "unseen synonyms, older lexicon"

Hits = Mapping[str, Sequence[bool]]


def changed(texts: Sequence[str], old: Lexicon, new: Lexicon) -> list[int]:
    """Places of the prompts that are read differently."""
    return [place for place, text in enumerate(texts) if old(text) != new(text)]


def without_lexicon(assets: Path, folder: Path) -> Path:
    """Links to the assets in `folder`, without the lexicon: prompts go in as they are read."""
    (folder / "judge").symlink_to((assets / "judge").resolve())
    (folder / "toy" / "tokenizer").mkdir(parents=True)
    for file in [*(assets / "toy").iterdir(), *(assets / "toy" / "tokenizer").iterdir()]:
        if file.name not in ("tokenizer", LEXICON):
            (folder / file.relative_to(assets)).symlink_to(file.resolve())
    return folder


def hits(bench: Bench, prompts: Prompts) -> dict[str, list[bool]]:
    """Whether the judge reads what was asked for, by attribute and prompt."""
    found = []
    for clips in generate(bench, prompts, GENERATED["synonyms"][1]):
        found.append(read(bench, to_video(clips, bench.device)))
        print(f"{sum(len(part['subject']) for part in found)} of {len(prompts.texts)}", flush=True)
    seen, asked = joined(found), labels_of(prompts.scenes, torch.device("cpu"))
    each = {name: seen[name] == asked[name] for name in ATTRIBUTES}
    each[JOINT] = torch.stack(list(each.values())).all(0)
    return {name: values.tolist() for name, values in each.items()}


def summary(prompts: Prompts, places: Sequence[int], old: Hits, new: Hits) -> dict[str, Any]:
    """Counts by attribute, and of the subject by the noun that was asked for."""
    nouns = [subjects()[subject].noun for subject in prompts.scenes.subject[np.array(places)].tolist()]
    by_noun: dict[str, dict[str, int]] = {}
    for i, noun in enumerate(nouns):
        row = by_noun.setdefault(noun, {"prompts": 0, "before": 0, "now": 0})
        row["prompts"] += 1
        row["before"] += old["subject"][i]
        row["now"] += new["subject"][i]
    return {
        "prompts": len(prompts.texts),
        "changed": len(places),
        "before": {name: sum(old[name]) for name in COLUMNS},
        "now": {name: sum(new[name]) for name in COLUMNS},
        "subject right by the noun that was asked for": by_noun,
    }


def corrected(row: Row, measured: Mapping[str, Any]) -> Row | None:
    """The row as it is with today's lexicon; None where it is not the row that the measurement began from."""
    if {name: row.figures[name].right for name in COLUMNS} != measured["table"]:
        return None
    figures = {
        name: Figure(
            right=figure.right - measured["before"][name] + measured["now"][name],
            num=figure.num,
            chance=figure.chance,
            bar=BARS["synonyms"].get(name),
        )
        for name, figure in row.figures.items()
    }
    return Row(name="synonyms-now", title=TITLE, figures=figures, seconds=row.seconds)


def with_correction(report: Report, file: Path = OUT) -> Report:
    """The report with the corrected row behind that of the synonyms, where it can be made."""
    row = report.row("synonyms")
    if row is None or not file.is_file():
        return report
    measured = json.loads(file.read_text())
    now = corrected(row, measured)
    if now is None:
        return report
    place = report.rows.index(row) + 1
    note = (
        f"the GPU's row above; {measured['changed']} of {measured['prompts']} prompts are read otherwise"
        f" today and were made anew on a CPU: subject right {measured['before']['subject']} before,"
        f" {measured['now']['subject']} now"
    )
    rows = [*report.rows[: place - 1], replace(row, title=TITLE_BEFORE), now, *report.rows[place:]]
    return replace(report, rows=rows, numbers={**report.numbers, TITLE: note})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="the older lexicon, uncompressed")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--commit", default="unknown", help="of the code, weights and lexicon, for the record"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    prompts = synonym_prompts(NUM_SYNONYMS)
    old, new = (
        Lexicon(args.against.read_text().splitlines()),
        read_lexicon(ASSETS / "toy" / "tokenizer" / LEXICON),
    )
    places = changed(prompts.texts, old, new)
    print(f"{len(places)} of {len(prompts.texts)} prompts are read differently", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(without_lexicon(ASSETS, Path(folder)), args.batch, device="cpu")
        now, before = (hits(bench, chosen(prompts, places, lexicon)) for lexicon in (new, old))
    row = Report.from_json(json.loads(TABLE.read_text())).row("synonyms")
    assert row is not None, f"{TABLE} holds no row of synonyms"
    found = {
        "about": {"commit": args.commit, "device": platform.machine(), "torch": torch.__version__},
        "table": {name: row.figures[name].right for name in COLUMNS},
        **summary(prompts, places, before, now),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def chosen(prompts: Prompts, places: Sequence[int], lexicon: Lexicon) -> Prompts:
    """Some of the prompts, as a lexicon reads them."""
    return Prompts(
        texts=tuple(lexicon(prompts.texts[place]) for place in places),
        scenes=prompts.scenes[np.array(places)],
        seeds=tuple(prompts.seeds[place] for place in places),
    )


if __name__ == "__main__":
    main()
