"""Senses and closeness of nouns in WordNet's graph, on one drawn by hand."""

from pathlib import Path

import pytest
from training.wordnet import DOWN, FAR, SENSE, WordNet, anchor, closeness, meanings, read_wordnet
from training.world.subjects import Noun, Subject


def _subject(*names: str) -> Subject:
    nouns = tuple(Noun(one=name, many=f"{name}s") for name in names)
    return Subject(id=0, emoji="", noun=names[0], faces_left=None, colour=None, training=nouns, held_out=())


DOG, BALL = _subject("dog", "puppy"), _subject("ball")


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
    assert meanings(_net(), DOG) == {"dog": "dog", "puppy": "puppy"}
    assert anchor(_net(), _subject("gizmo")) is None
    assert meanings(_net(), _subject("gizmo")) == {}


def test_a_kind_is_nearer_than_a_sister_and_a_stranger_is_far() -> None:
    net = _net()
    senses = [meanings(net, subject) for subject in (DOG, BALL)]
    beagle, wolf, stone = closeness(net, ["beagle", "wolf", "stone"], senses)
    assert beagle[0] == pytest.approx(1 - DOWN / FAR)
    assert beagle[0] > wolf[0] > 0
    assert beagle[1] == wolf[1] == 0
    assert not stone.any()


def test_a_later_sense_is_further() -> None:
    net = _net()
    net.senses["cur"] = ["stone", "dog"]
    first, second = closeness(net, ["dog", "cur"], [{"dog": "dog"}])[:, 0]
    assert first == second == pytest.approx(1 - SENSE / FAR)


def test_the_files_of_wordnet_are_read(tmp_path: Path) -> None:
    header = "  1 a licence\n"
    (tmp_path / "data.noun").write_text(
        header
        + '00000001 05 n 01 dog 0 001 @ 00000002 n 0000 | barks; bites; "a dog barks"  \n'
        + "00000002 03 n 02 animal 0 Animalia 0 001 ~ 00000001 n 0000 | lives  \n"
    )
    (tmp_path / "index.noun").write_text(
        header + "dog n 1 1 @ 1 1 00000001\nguide_dog n 1 1 @ 1 0 00000001\n"
    )
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"{part}.exc").write_text("")
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"index.{part}").write_text(f"{header}{part}_like a 1 0 1 0 00000001\n")
    (tmp_path / "noun.exc").write_text("oxen ox\n")
    (tmp_path / "cntlist.rev").write_text("dog%1:05:00:: 1 20\ndog%2:38:00:: 1 42\n")
    net = read_wordnet(tmp_path)
    assert net.senses == {"dog": ["00000001"], "guide dog": ["00000001"]}
    assert net.ups["00000001"] == ["00000002"]
    assert net.glosses == {"00000001": "barks; bites", "00000002": "lives"}
    assert net.fields == {"00000001": 5, "00000002": 3}
    assert net.common == {"dog", "animal"}
    assert net.rarely_nouns == {"dog"}
    assert net.lemmas == {"dog", "guide dog", "verb like", "adj like", "adv like", "oxen"}
    assert net.plurals == {"ox": ["oxen"]}
