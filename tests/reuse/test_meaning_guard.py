"""The meaning guard: what it lets pass, what it refuses and how it says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushes.reuse.guard import differs, gist

PAIRS = Path(__file__).parent / "pairs"

SAME = [
    ("A dog that barks at a stranger", "a dog barks at a stranger"),
    ("", "  "),
    ("A dog runs, a cat sleeps", "A cat sleeps, a dog runs"),
    ("3 dogs run", "three dogs running"),
    ("Two wolves howl in the dark", "In the dark, two wolves howl"),
    ("A cat and a dog fight", "A dog and a cat fight"),
    ("The tap isn't dripping", "the tap is not dripping"),
    ("a fox, slow-motion", "slow motion, a fox"),
    ("a gray fox", "a grey fox"),
    ("A woman is watched by a man", "a woman watched by a man"),
]

OTHER = [
    ("A woman is watched", "a woman watches"),
    ("a white dog and a cat", "a white cat and a dog"),
    ("A dog chases a cat and a mouse watches", "a dog chases a mouse and a cat watches"),
    ("a few people", "few people"),
    ("a deer drinking", "deer drinking"),
    ("with red hair, a man looks at a woman", "a man looks at a woman with red hair"),
    ("In a red dress, a woman kisses a man", "a woman kisses a man in a red dress"),
    ("a dog on a mat, a cat in a box", "a dog in a box, a cat on a mat"),
    ("a cat with a ball and a dog", "a cat and a dog with a ball"),
    ("a plane", "a plan"),
    ("a man sits, stands", "a man stands, sits"),
    ("🐕 runs", "🐈 runs"),
    ("-5 degrees", "5 degrees"),
    ("1.5 glasses", "15 glasses"),
    ("First a dog barks, then a cat meows", "First a cat meows, then a dog barks"),
    ("A man eats before he runs", "A man runs before he eats"),
    ("一只狗追一只猫", "一只猫追一只狗"),
    ("Dogs chase a cat", "A dog chases cats"),
    ("a dog's owner", "an owner's dog"),
    ("the cat is black and the dog is white", "the cat is white and the dog is black"),
    ("A man slowly walks and a dog quickly runs", "A man quickly walks and a dog slowly runs"),
    ("day turns to night", "night turns to day"),
    ("On a dog, a cat sleeps", "On a cat, a dog sleeps"),
    ("On a cat sleeps a dog", "On a dog sleeps a cat"),
    ("not a cat but a dog", "not a dog but a cat"),
    ("a room without chairs, with tables", "a room with chairs, without tables"),
    ("black cat and dog play", "black dog and cat play"),
    ("A cat and a dog fight while a mouse watches", "A cat and a mouse fight while a dog watches"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_in_other_words_passes(one: str, other: str) -> None:
    assert differs(one, other) is None
    assert differs(other, one) is None
    assert gist(one) == gist(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_meaning_of_nearly_the_same_words_is_refused(one: str, other: str) -> None:
    assert differs(one, other)
    assert differs(other, one)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("a dog turns left", "a dog turns right", "direction: 'left' is not 'right'"),
        ("two dogs", "three dogs", "number: 'two' is not 'three'"),
        ("a dog sleeps", "dogs sleep", "number: 'dog' 'sleeps' is not 'dogs' 'sleep'"),
        ("a street with no cars", "a street with cars", "negation: 'no' is not nothing"),
        ("a red car", "a blue car", "colour: 'red' is not 'blue'"),
        ("a temple, zoom", "a temple, pan", "camera: 'zoom' is not 'pan'"),
        ("a dog", "a hound", "words: 'dog' is not 'hound'"),
        ("a dog bites a man", "a man bites a dog", "order: the same words in another order"),
    ],
)
def test_the_reason_says_what_differs(one: str, other: str, reason: str) -> None:
    assert differs(one, other) == reason


def test_prompts_of_two_gists_differ() -> None:
    for file in sorted(PAIRS.glob("*/same/*.txt")):
        for line in file.read_text("utf-8").splitlines():
            one, other = line.split(" | ")
            assert gist(one) == gist(other) or differs(one, other), line
    assert gist("a dog") != gist("a cat")


def test_no_pair_of_two_meanings_passes_in_either_set() -> None:
    for file in sorted(PAIRS.glob("*/other/*.txt")):
        for line in file.read_text("utf-8").splitlines():
            one, other = line.split(" | ")
            assert differs(one, other), line
            assert differs(other, one), line


def test_the_sets_share_no_prompt_and_hold_fifty_pairs_of_each_kind() -> None:
    sides = {
        name: {side for file in PAIRS.glob(f"{name}/*/*.txt") for side in _sides(file)}
        for name in ("held_out", "tuning")
    }
    assert not sides["held_out"] & sides["tuning"]
    counts = {file.stem: len(file.read_text("utf-8").splitlines()) for file in PAIRS.glob("held_out/*/*.txt")}
    assert len(counts) == 10
    assert set(counts.values()) == {50}


def _sides(file: Path) -> list[str]:
    return [side for line in file.read_text("utf-8").splitlines() for side in line.split(" | ")]


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_judged_both_ways_alike(one: str, other: str) -> None:
    assert differs(one, one) is None
    assert (differs(one, other) is None) == (differs(other, one) is None)
    assert differs(one, other) or gist(one) == gist(other)


@given(st.permutations(["dog", "sees", "cat", "bites", "man"]))
def test_words_of_one_phrase_may_not_be_shuffled(words: list[str]) -> None:
    straight = ["dog", "sees", "cat", "bites", "man"]
    assert (differs(" ".join(words), " ".join(straight)) is None) == (words == straight)


def test_long_prompts_are_compared_by_their_text_and_at_once() -> None:
    long = ", ".join(f"a red ball rolls over hill {number}" for number in range(300))
    moved = ", ".join(reversed(long.split(", ")))
    began = time.perf_counter()
    assert differs(long, long) is None
    assert str(differs(long, moved)).startswith("length: ")
    assert gist(long) != gist(moved)
    assert time.perf_counter() - began < 0.2
