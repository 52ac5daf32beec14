"""Every label is true, the mixes are what the issue fixed, and the streams stay what they are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import vocabulary as exporter
from rushes.errors import UnknownName
from rushes.profiling.workloads.base import WORKLOADS, LabelledPrompt, load_workload
from rushes.profiling.workloads.hot_topics import EXACT_SHARE
from rushes.profiling.workloads.mix import Mix, hits_needed, mix_of
from rushes.profiling.workloads.scenes import SLOTS, Scene, Wording, sentence, values_of
from rushes.profiling.workloads.vocabulary import FILE

STREAMS = {name: load_workload(name).prompts() for name in WORKLOADS.names()}

DIGESTS = {
    "interactive": "87e325546efe9dc0",
    "batch": "15627541de066805",
    "templated-ads": "7e17e2afffa57d54",
    "hot-80-20": "92e1accac247d592",
    "previs": "4cee3171d34de311",
    "lesson": "bcf6639e54f4cf47",
    "presenter": "0dd577c10d057be6",
}
"""Of every label and prompt: a figure on a workload can be compared only while it is the same."""


def differences(a: Scene, b: Scene) -> list[str]:
    return [slot for slot in SLOTS if getattr(a, slot) != getattr(b, slot)]


def neighbours(scene: Scene) -> set[Scene]:
    """The scene and all that differ from it in one slot."""
    return {replace(scene, **{slot: value}) for slot in SLOTS for value in values_of(slot)}


def check_label(prompt: LabelledPrompt, earlier: list[LabelledPrompt], near: set[Scene]) -> None:
    """The definition of each kind, from the stream alone."""
    texts = {each.prompt for each in earlier}
    if prompt.kind == "new":
        assert prompt.of is None
        assert prompt.scene not in near
        assert prompt.prompt not in texts
        return
    source = earlier[prompt.of]
    changed = differences(prompt.scene, source.scene)
    assert prompt.group == source.group
    if prompt.kind == "exact":
        assert (prompt.prompt, prompt.seed, changed) == (source.prompt, source.seed, [])
    elif prompt.kind == "rewording":
        assert changed == []
        assert prompt.prompt not in texts
    else:
        assert changed == [prompt.slot]
        assert prompt.wording == source.wording
        assert prompt.prompt not in texts
        assert prompt.scene not in {each.scene for each in earlier}


@pytest.mark.parametrize("name", STREAMS)
def test_every_label_is_true(name: str) -> None:
    near: set[Scene] = set()
    for number, prompt in enumerate(STREAMS[name][:1200]):
        assert prompt.number == number
        check_label(prompt, list(STREAMS[name][:number]), near)
        if prompt.kind in ("new", "edit"):
            near |= neighbours(prompt.scene)


@pytest.mark.parametrize("name", STREAMS)
def test_a_text_means_one_scene(name: str) -> None:
    scenes = defaultdict(set)
    for prompt in STREAMS[name]:
        scenes[prompt.prompt].add(prompt.scene)
    assert max(map(len, scenes.values())) == 1
    assert len({prompt.seed for prompt in STREAMS[name]}) == len(scenes), "two texts share a seed"


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_fixed_by_its_seed(name: str) -> None:
    workload = load_workload(name)
    assert workload.num_requests == len(STREAMS[name])
    assert workload.prompts(7) == STREAMS[name][:7]
    assert replace(workload, seed=1).prompts(7) != STREAMS[name][:7]
    text = "\n".join(f"{each.kind} {each.of} {each.slot} {each.prompt}" for each in STREAMS[name])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name]


def test_the_shares_of_templated_ads() -> None:
    stream = STREAMS["templated-ads"]
    assert mix_of(stream) == Mix(exact=900, rewording=500, edit=300, new=300)
    assert {prompt.group for prompt in stream} == set(range(50))
    assert {prompt.slot for prompt in stream if prompt.kind == "edit"} == {
        "subject",
        "colour",
        "motion",
        "background",
    }


def test_the_slots_of_a_template_are_all_that_varies_in_it() -> None:
    fixed = defaultdict(set)
    for prompt in STREAMS["templated-ads"]:
        if prompt.kind in ("new", "edit"):
            scene = prompt.scene
            fixed[prompt.group].add((scene.count, scene.size, scene.camera))
    assert all(len(values) == 1 for values in fixed.values())


def test_the_shares_of_hot_topics() -> None:
    stream = STREAMS["hot-80-20"]
    asked = Counter(prompt.group for prompt in stream)
    hot = sum(num for topic, num in asked.items() if topic < 200)
    assert hot == 0.8 * len(stream)
    assert max(asked) < 1000
    # Only a topic's own words are ever repeated; those of a topic that was asked once are not seen here.
    own = {prompt.prompt for prompt in stream if prompt.kind == "exact"}
    said = sum(prompt.prompt in own for prompt in stream)
    assert 0.5 * len(stream) < said < EXACT_SHARE * len(stream) == 3000
    assert mix_of(stream).exact_share > 0.45


def test_scripts_tell_one_story_each() -> None:
    shots = [prompt for prompt in STREAMS["previs"] if prompt.group == 3]
    assert [(shot.kind, shot.slot) for shot in shots] == [
        ("new", None),
        ("edit", "camera"),
        ("edit", "motion"),
        ("edit", "camera"),
        ("rewording", None),
        ("edit", "background"),
    ]
    assert {shot.scene.subject for shot in shots} == {shots[0].scene.subject}
    counted = [prompt.scene.count for prompt in STREAMS["lesson"] if prompt.group == 0][:3]
    assert sorted(counted) == [1, 2, 3]
    openings = [prompt for prompt in STREAMS["presenter"][::4] if prompt.kind == "new"]
    assert len(openings) == 5


def test_the_vocabulary_is_the_toy_worlds() -> None:
    assert FILE.read_text(encoding="utf-8") == exporter.text()


def test_classes_are_those_of_the_judge() -> None:
    from training.world.attributes import BACKGROUNDS, COLOURS, MOTIONS
    from training.world.subjects import subjects

    scene = STREAMS["interactive"][0].scene
    classes = scene.classes()
    assert COLOURS[classes["colour"]] == scene.colour
    assert MOTIONS[classes["motion"]] == scene.motion
    assert BACKGROUNDS[classes["background"]] == scene.background
    noun = subjects()[classes["subject"]].training[0].one
    assert noun in sentence(scene, Wording())


def test_sentences_in_both_numbers() -> None:
    scene = Scene(subject=0, colour="red", motion="spins", background="beach", count=3, camera="zoom in")
    assert sentence(scene, Wording()) == "three red dogs spin on the beach, the camera zooms in"
    assert sentence(replace(scene, count=1, size="big"), Wording(pattern=4)) == (
        "there is a big red dog spinning on the beach, the camera zooms in"
    )


def test_the_bounds_of_a_mix() -> None:
    mix = Mix(exact=45, rewording=25, edit=15, new=15)
    assert (mix.exact_share, mix.same_meaning_share, mix.hit_share) == (0.45, 0.7, 0.85)
    assert mix.mean_s(20.0, exact_s=1.0) == pytest.approx(0.45 * 1 + 0.55 * 20)
    assert mix.mean_s(20.0, latent_s=10.0) == pytest.approx(0.4 * 10 + 0.15 * 20)
    assert hits_needed(1.0, full_s=23.0) == pytest.approx(22 / 23)
    assert hits_needed(2.0, full_s=23.0, hit_s=1.0) == pytest.approx(21 / 22)


def test_the_page_lists_every_workload() -> None:
    page = (Path(__file__).parents[3] / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    for name, stream in STREAMS.items():
        mix = mix_of(stream)
        kinds = f"{mix.exact} | {mix.rewording} | {mix.edit} | {mix.new}"
        assert f"| `{name}` | {load_workload(name).title} | {kinds} |" in page


def test_an_unknown_workload_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'templated-ads'"):
        load_workload("template-ads")


def test_no_torch() -> None:
    code = (
        "import sys; from rushes.profiling.workloads.base import WORKLOADS, load_workload;"
        "[load_workload(name).prompts(3) for name in WORKLOADS.names()];"
        "import rushes.profiling.bench.base, rushes.profiling.bench.contenders;"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
