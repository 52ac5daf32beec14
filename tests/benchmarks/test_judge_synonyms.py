"""The row of unseen synonyms after a change of the lexicon."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.judge_report import COLUMNS, Figure, Report, Row
from benchmarks.judge_synonyms import (
    ASSETS,
    TABLE,
    TITLE,
    changed,
    chosen,
    corrected,
    summary,
    with_correction,
    without_lexicon,
)
from training.world.prompts import synonym_prompts

from rushes.models.lexicon import LEXICON, Lexicon

OLD, NEW = Lexicon(["pizza, pizzas: hound"]), Lexicon(["dog, dogs: hound"])


def _row(right: int) -> Row:
    figure = Figure(right=right, num=10, chance=0.1, bar=0.75)
    return Row(name="synonyms", title="", figures=dict.fromkeys(COLUMNS, figure), seconds=1)


def _measured(table: int) -> dict[str, Mapping[str, int] | int]:
    counts = {"table": table, "before": 1, "now": 3}
    return {name: dict.fromkeys(COLUMNS, count) for name, count in counts.items()} | {
        "changed": 4,
        "prompts": 10,
    }


def test_only_prompts_read_otherwise_are_made() -> None:
    assert changed(["a hound", "a dog", "two hounds"], OLD, NEW) == [0, 2]


def test_chosen_prompts_keep_their_scenes_and_seeds() -> None:
    prompts = synonym_prompts(8)
    some = chosen(prompts, [1, 5], Lexicon([]))
    assert some.texts == (prompts.texts[1], prompts.texts[5])
    assert some.seeds == (prompts.seeds[1], prompts.seeds[5])
    assert some.scenes.subject.tolist() == prompts.scenes.subject[[1, 5]].tolist()


def test_the_assets_are_linked_without_the_lexicon(tmp_path: Path) -> None:
    folder = without_lexicon(ASSETS, tmp_path)
    names = {file.name for file in (ASSETS / "toy" / "tokenizer").iterdir()}
    assert {file.name for file in (folder / "toy" / "tokenizer").iterdir()} == names - {LEXICON}
    assert {file.name for file in (folder / "toy").iterdir()} == {f.name for f in (ASSETS / "toy").iterdir()}
    assert list((folder / "judge").iterdir())


def test_hits_are_counted_by_attribute_and_noun() -> None:
    prompts = synonym_prompts(3)
    before, now = (dict.fromkeys(COLUMNS, hits) for hits in ([False, False], [True, False]))
    found = summary(prompts, [0, 2], before, now)
    assert (found["before"]["subject"], found["now"]["subject"]) == (0, 1)
    nouns = found["subject right by the noun that was asked for"]
    assert sum(row["prompts"] for row in nouns.values()) == 2


def test_what_changed_is_taken_off_and_added() -> None:
    now = corrected(_row(7), _measured(7))
    assert now is not None
    assert now.figures["subject"].right == 9
    assert now.figures["subject"].verdict == "met"


def test_a_table_made_anew_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(_measured(7)))
    report = Report(about={}, rows=[_row(8)])
    assert with_correction(report, file) is report
    assert with_correction(report, tmp_path / "none.json") is report


def test_the_row_stands_behind_the_one_it_corrects(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(_measured(7)))
    report = with_correction(Report(about={}, rows=[_row(7)]), file)
    assert [row.name for row in report.rows] == ["synonyms", "synonyms-now"]
    assert report.numbers[TITLE].startswith("the GPU's row above; 4 of 10 prompts")


def test_the_shipped_measurement_belongs_to_the_table() -> None:
    report = with_correction(Report.from_json(json.loads(TABLE.read_text())))
    row = report.row("synonyms-now")
    assert row is not None
    assert row.figures["subject"].right == 312
