"""The lexicon's lines are read as they were meant."""

import lzma
from pathlib import Path

from training.lexicon_file import lines, write
from training.wordnet import WordNet
from training.world.subjects import Noun, Subject

from rushes.models.lexicon import read_lexicon


def _subject(number: int, *nouns: Noun) -> Subject:
    return Subject(
        id=number, emoji="", noun=nouns[0].one, faces_left=None, colour=None, training=nouns, held_out=()
    )


DOG = _subject(0, Noun(one="dog", many="dogs"), Noun(one="toy dog", many="toy dogs"))
LEAF = _subject(1, Noun(one="maple leaf", many="maple leaves"))


def _net() -> WordNet:
    net = WordNet()
    net.plurals["wolf"].extend(["wolves", "wolfs"])
    return net


def test_the_names_come_first_and_then_a_line_a_subject() -> None:
    assert lines(_net(), {"wolf": 0, "akita": 0}, (DOG, LEAF)) == [
        "keep: dog, maple leaf=maple leaves, toy dog",
        "dog, dogs: akita, wolf=wolves",
        "maple leaf, maple leaves: ",
    ]


def test_the_engine_reads_what_is_written(tmp_path: Path) -> None:
    out = tmp_path / "lexicon.txt.xz"
    write(lines(_net(), {"wolf": 0, "frond": 1}, (DOG, LEAF)), out)
    assert lzma.decompress(out.read_bytes()).endswith(b": frond\n")
    read = read_lexicon(out)
    assert read("wolves, fronds, a frond") == "dogs, maple leaves, a maple leaf"
    assert read("maple leaves, a mapleleaf, toy dogs") == "maple leaves, a maple leaf, toy dogs"
