"""Nearest subjects by WordNet's graph, on one drawn by hand."""

from pathlib import Path

import torch
from training.lexicon import WordNet, anchor, closeness, nearest, read_wordnet
from training.world.subjects import Noun, Subject


def _subject(number: int, *names: str) -> Subject:
    nouns = tuple(Noun(one=name, many=f"{name}s") for name in names)
    return Subject(
        id=number, emoji="", noun=names[0], faces_left=None, colour=None, training=nouns, held_out=()
    )


DOG, BALL = _subject(0, "dog", "puppy"), _subject(1, "ball")


def _net() -> WordNet:
    """animal > dog > (puppy, beagle); animal > wolf; ball; and a dog that is a metal bar."""
    net = WordNet()
    for kind, genus in (
        ("dog", "animal"),
        ("puppy", "dog"),
        ("beagle", "dog"),
        ("wolf", "animal"),
        ("bar", "tool"),
    ):
        net.ups[kind].append(genus)
        net.downs[genus].append(kind)
    net.senses.update({name: [name] for name in ("animal", "puppy", "beagle", "wolf", "ball", "stone")})
    net.senses["dog"] = ["bar", "dog"]
    return net


def test_names_choose_the_meaning_they_share() -> None:
    assert anchor(_net(), DOG) == "dog"
    assert anchor(_net(), _subject(2, "gizmo")) is None


def test_a_kind_is_nearer_than_a_sister_and_a_stranger_is_far() -> None:
    beagle, wolf, stone = closeness(_net(), ["beagle", "wolf", "stone"], (DOG, BALL))
    assert beagle[0] > wolf[0] > 0
    assert beagle[1] == wolf[1] == 0
    assert not stone.any()


def test_two_words_are_left_out_where_the_second_tells_as_much() -> None:
    words = ["guide dog", "beagle", "fire ball", "dust"]
    scores = torch.tensor([[1.5, 0.0], [0.9, 0.1], [1.2, 0.3], [0.2, 0.1]])
    assert nearest(words, scores, (DOG, BALL)) == {"beagle": 0, "fire ball": 0}


def test_the_files_of_wordnet_are_read(tmp_path: Path) -> None:
    header = "  1 a licence\n"
    (tmp_path / "data.noun").write_text(
        header
        + "00000001 05 n 01 dog 0 001 @ 00000002 n 0000 | barks\n"
        + "00000002 05 n 02 animal 0 Animalia 0 001 ~ 00000001 n 0000 | lives\n"
    )
    (tmp_path / "index.noun").write_text(
        header + "dog n 1 1 @ 1 1 00000001\nguide_dog n 1 1 @ 1 0 00000001\n"
    )
    (tmp_path / "cntlist.rev").write_text("dog%1:05:00:: 1 20\ndog%2:38:00:: 1 42\n")
    net = read_wordnet(tmp_path)
    assert net.senses == {"dog": ["00000001"], "guide dog": ["00000001"]}
    assert net.ups["00000001"] == ["00000002"]
    assert net.common == {"dog", "animal"}
    assert net.rarely_nouns == {"dog"}
