"""Words that the toy was not trained on, read as the nearest that it was."""

import lzma
from pathlib import Path

import pytest
from training.world.prompts import evaluation_prompts
from training.world.subjects import subjects

from rushes.config import TOY_FOLDER
from rushes.errors import CheckpointError
from rushes.models.lexicon import LEXICON, Lexicon, read_lexicon

LINES = [
    "keep: sunflower, palm tree, trout stream, toy fox=toy foxen",
    "dog, dogs: beagle, fox, guide dog, husky, wolf=wolves",
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
        ("a wolf, two wolves, three wolfs", "a dog, two dogs, three dogs"),
        ("a fox and toy foxen", "a dog and toy foxen"),
        ("Sun flowers by a sun-flower", "sunflowers by a sunflower"),
        ("two palmtrees by a palm-tree", "two palm trees by a palm tree"),
        ("sun, flower; guidedog", "sun, flower; guidedog"),
        ("猫 beagle's ünï", "猫 dog's ünï"),
        ("a wolf sunflower, a wolf, sunflower", "a wolf sunflower, a dog, sunflower"),
        ("", ""),
    ],
)
def test_nouns_are_replaced_and_nothing_else(prompt: str, known: str) -> None:
    assert Lexicon(LINES)(prompt) == known


def test_a_file_is_compressed(tmp_path: Path) -> None:
    file = tmp_path / LEXICON
    file.write_bytes(lzma.compress("\n".join(LINES).encode()))
    assert read_lexicon(file)("a beagle") == "a dog"


@pytest.mark.parametrize(
    "data", [None, b"dog, dogs: beagle", lzma.compress(b"dog: " * 99)[:-20], lzma.compress(b"\xff")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / LEXICON
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"lexicon .*lexicon\.txt\.xz: cannot be read"):
        read_lexicon(file)


def test_the_shipped_one_leaves_captions_alone() -> None:
    lexicon = read_lexicon(TOY_FOLDER / "tokenizer" / LEXICON)
    texts = evaluation_prompts().texts
    assert [lexicon(text) for text in texts] == list(texts)


def test_the_shipped_one_reads_most_unseen_names_right() -> None:
    """The names that captions never use; those read wrong are stated in training/README.md."""
    lexicon = read_lexicon(TOY_FOLDER / "tokenizer" / LEXICON)
    pairs = [(noun, subject) for subject in subjects() for noun in subject.held_out]
    right = [lexicon(noun.one) == subject.training[0].one for noun, subject in pairs]
    assert sum(right) >= 0.8 * len(pairs)
