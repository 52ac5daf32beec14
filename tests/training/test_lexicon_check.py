"""Names are taken out of the captions' one by one."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from training.lexicon_check import DEPTH, kinds, left_out, read_left_out, strangers
from training.lexicon_score import Scorer
from training.wordnet import WordNet
from training.world.subjects import Noun, Subject


def _subject(number: int, *names: str) -> Subject:
    nouns = tuple(Noun(one=name, many=f"{name}s") for name in names)
    return Subject(
        id=number, emoji="", noun=names[0], faces_left=None, colour=None, training=nouns, held_out=()
    )


COW, RABBIT = _subject(7, "cow", "dairy cow", "heifer"), _subject(9, "rabbit", "bunny", "bunny rabbit")


def _embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Cows and bunnies apart; a rabbit looks like a cow."""
    return np.array([[1, 0] if "bunny" not in text else [0, 1] for text in texts], np.float32)


def test_a_name_goes_with_all_that_share_a_word() -> None:
    found = {test.name: [noun.one for noun in test.subject.training] for test in left_out([COW, RABBIT])}
    assert found == {
        "cow": ["heifer"],
        "heifer": ["cow", "dairy cow"],
        "rabbit": ["bunny"],
        "bunny": ["rabbit"],
    }
    assert left_out([_subject(0, "giraffe", "tall giraffe")]) == []


def test_a_name_left_out_is_read_by_the_others() -> None:
    net = WordNet()
    net.senses.update({name: [name] for name in ("cow", "rabbit", "bunny")})
    net.glosses.update(dict.fromkeys(net.senses, ""))
    count = read_left_out(Scorer(net, _embed), [COW, RABBIT])
    assert count.right == 1
    assert count.wrong == (("rabbit", 7),)
    assert count.unread == ("heifer", "bunny")  # WordNet lacks the first


def test_a_name_left_out_is_read_by_its_form() -> None:
    """As the engine reads it: together where another name is, and cut short; neither is in WordNet."""
    subject = _subject(3, "hippopotamus", "hippo potamus", "hippo")
    count = read_left_out(Scorer(WordNet(), _embed), [COW, subject, RABBIT])
    assert {"hippo potamus", "hippo"}.isdisjoint(count.unread)
    assert count.wrong == ()
    assert "heifer" in count.unread


def test_strangers_are_abstract_in_every_sense() -> None:
    net = WordNet()
    net.senses.update({"idea": ["a"], "bulb": ["a", "b"], "run": ["a"]})
    net.fields.update({"a": 9, "b": 6})
    net.rarely_nouns.add("run")
    assert strangers(net, ["idea", "bulb", "run", "gelato"]) == ["idea"]


def test_kinds_lie_below_one_subject_alone() -> None:
    net = WordNet()
    for kind, genus in (("jersey", "cow"), ("hare", "rabbit"), ("chimera", "cow"), ("chimera", "rabbit")):
        net.ups[kind].append(genus)
    chain = ["cow", *(f"cow{i}" for i in range(DEPTH + 1))]
    for genus, kind in itertools.pairwise(chain):
        net.ups[kind].append(genus)
    words = ["jersey", "hare", "chimera", *chain[1:]]
    net.senses.update({word: [word] for word in (*words, "cow", "rabbit")})
    found = kinds(net, words, [COW, RABBIT])
    assert found == {"jersey": 7, "hare": 9} | dict.fromkeys(chain[1 : DEPTH + 1], 7)
