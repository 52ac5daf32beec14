"""Words that the toy was not trained on, read as the nearest that it was."""

from pathlib import Path

import pytest
from training.world.prompts import evaluation_prompts
from training.world.subjects import subjects

from rushes.config import TOY_FOLDER
from rushes.errors import CheckpointError
from rushes.models.lexicon import Lexicon, read_lexicon

LINES = [
    "keep: trout stream",
    "dog, dogs: beagle, guide dog, husky",
    "fish, fish: trout",
    "box of fries, boxes of fries: chip",
]


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        ("a beagle runs", "a dog runs"),
        ("Two BEAGLES, a guide dog", "Two dogs, a dog"),
        ("huskies and trouts", "dogs and fish"),
        ("3 chips\tin  the\nsnow", "3 boxes of fries\tin  the\nsnow"),
        ("a guide to beaglers", "a guide to beaglers"),
        ("trout in a trout stream", "fish in a trout stream"),
        ("猫 beagle's ünï", "猫 dog's ünï"),
        ("", ""),
    ],
)
def test_nouns_are_replaced_and_nothing_else(prompt: str, known: str) -> None:
    assert Lexicon(LINES)(prompt) == known


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lexicon .*nothing\.txt: cannot be read"):
        read_lexicon(tmp_path / "nothing.txt")


def test_the_shipped_one_leaves_captions_alone() -> None:
    lexicon = read_lexicon(TOY_FOLDER / "tokenizer" / "lexicon.txt")
    texts = evaluation_prompts(200).texts
    assert [lexicon(text) for text in texts] == list(texts)


def test_the_shipped_one_reads_most_unseen_names_right() -> None:
    """The names that captions never use; those read wrong are stated in training/README.md."""
    lexicon = read_lexicon(TOY_FOLDER / "tokenizer" / "lexicon.txt")
    pairs = [(noun, subject) for subject in subjects() for noun in subject.held_out]
    right = [lexicon(noun.one) == subject.training[0].one for noun, subject in pairs]
    assert sum(right) >= 0.8 * len(pairs)
