"""Notes on requests: words and sizes that the model was not trained with."""

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training.world.captions import captions
from training.world.scenes import sample_scenes

from rushes.cli.calibrate import PROMPTS
from rushes.pipelines.notes import notes_on, unknown_words, vocabulary
from rushes.pipelines.rules import load_rules, resolve

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r'rushes (?:generate|submit|edit \S+) "([^"]+)"')


def notes(prompt="a dog", pipeline="toy", **fields):
    return notes_on(resolve(load_rules(pipeline), prompt, seed=0, **fields))


def test_captions_of_the_training_world_are_known_word_for_word():
    scenes = sample_scenes(400, np.random.default_rng(5))
    missed = {word for text in captions(scenes, random.Random(5)) for word in unknown_words(text)}
    assert not missed


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Two beagles on the beach", ()),  # read as dogs
        ("a dog negotiating a mortgage, cinematic", ("negotiating", "mortgage", "cinematic")),
        ("xyzzy Xyzzy dog xyzzy", ("xyzzy",)),
        ("a dog, 4k", ()),
        ("собака и dog läuft", ("собака", "и", "läuft")),
        ("犬が走る", ("犬が走る",)),
        ("now in snow", ()),
    ],
)
def test_unknown_words_are_named_once_each_in_order(prompt, words):
    assert unknown_words(prompt) == words


def test_a_note_names_field_words_and_says_what_happens():
    (note,) = notes("a dog paying a mortgage")
    assert note.field == "prompt"
    assert note.values == ("paying", "mortgage")
    assert (
        note.message == "toy does not know 'paying', 'mortgage'; the clip is made from the rest of the prompt"
    )
    assert notes("a quantum entanglement")[0].message.endswith("; the clip is left to chance")


def test_what_the_toy_knows_can_be_listed():
    words = vocabulary()
    assert {"dog", "apple"} <= set(words["subjects"])
    assert not [word for kind in words.values() for word in kind if unknown_words(word)]


def test_prompts_of_the_documents_are_made_whole():
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [prompt for file in files for prompt in COMMAND.findall(file.read_text(encoding="utf-8"))]
    assert len(texts) > 5
    assert not {text: found for text in (*texts, *PROMPTS) if (found := unknown_words(text))}


def test_a_model_of_a_full_language_is_not_measured_by_the_toys_words():
    assert notes("a dog paying a mortgage", "wan2.2-t2v-a14b") == ()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, None),
        ({"width": 128, "height": 96}, None),
        ({"width": 64, "height": 48}, "size"),
        ({"width": 512, "height": 512}, "size"),
        ({"width": 304, "height": 80}, "size"),
        ({"num_frames": 65}, None),
        ({"num_frames": 129}, "num_frames"),
    ],
)
def test_sizes_far_from_those_of_training_are_told(fields, field):
    assert [note.field for note in notes(**fields)] == ([] if field is None else [field])


def test_a_gateway_can_ask_without_torch():
    code = (
        "import sys, rushes.pipelines.notes as n; n.unknown_words('a dog'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_studios_starters_ask_only_for_what_the_toy_knows() -> None:
    text = (ROOT / "src/rushes/server/studio/js/starter_list.js").read_text()
    slots = re.findall(r'value: "([^"]+)"', text)
    shots = [shot for line in re.findall(r"shots: \[(.+)\]", text) for shot in re.findall(r'"([^"]+)"', line)]
    assert len(slots) == 11
    assert len(shots) == 10
    missed = {word for each in (*slots, *shots) for word in unknown_words(re.sub(r"\{\w+\}", "", each))}
    assert not missed
