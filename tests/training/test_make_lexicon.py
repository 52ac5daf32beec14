"""Nearest subjects by WordNet's graph and by embeddings, both drawn by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from training.lexicon import candidates, nearest
from training.lexicon_score import ENOUGH, ENOUGH_OF_TWO, RARELY_NOUN, SHOWN, Scorer
from training.wordnet import WordNet
from training.world.subjects import Noun, Subject


def _subject(number: int, *names: str) -> Subject:
    nouns = tuple(Noun(one=name, many=f"{name}s") for name in names)
    return Subject(
        id=number, emoji="", noun=names[0], faces_left=None, colour=None, training=nouns, held_out=()
    )


DOG, BALL = _subject(0, "dog", "puppy"), _subject(1, "ball")


def _net() -> WordNet:
    """Two animals, dog (of which a beagle is a kind) and wolf, and a ball."""
    net = WordNet()
    for kind, genus in (("dog", "animal"), ("beagle", "dog"), ("wolf", "animal")):
        net.ups[kind].append(genus)
        net.downs[genus].append(kind)
    net.senses.update({name: [name] for name in ("dog", "beagle", "wolf", "ball", "stone")})
    net.glosses.update({name: name for name in ("dog", "beagle", "wolf", "ball", "stone")})
    return net


def _embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Along one axis what has to do with dogs, along another with balls, along a third all else."""
    dogs, balls = ("dog", "puppy", "beagle", "doggo"), ("ball",)
    rows = []
    for text in texts:
        words = text.replace(":", "").split()
        rows.append([any(w in dogs for w in words), any(w in balls for w in words), 0])
        rows[-1][2] = not any(rows[-1])
    return np.array(rows, np.float32)


def test_a_word_is_scored_by_likeness_relation_and_definition() -> None:
    beagle, wolf, stone, doggo = Scorer(_net(), _embed).scores(
        ["beagle", "wolf", "stone", "doggo"], (DOG, BALL)
    )
    assert beagle[0] > 1.5  # alike, a kind, and defined alike
    assert beagle[1] == 0
    assert 0 < wolf[0] < ENOUGH  # a sister
    assert not stone.any()
    assert doggo.tolist() == [1, 0]  # WordNet lacks it


def test_names_count_alike_whatever_their_number() -> None:
    only, both = (_subject(0, "dog"), BALL), (_subject(0, "dog", "stone"), BALL)
    one, half = (Scorer(WordNet(), _embed).scores(["doggo"], names)[0, 0] for names in (only, both))
    assert (one, half) == (1, 0.5)


def test_enough_depends_on_what_is_known_of_a_word() -> None:
    net = _net()
    net.senses["guide dog"] = ["dog"]
    net.rarely_nouns.add("wolf")
    found = Scorer(net, _embed).enough(["beagle", "guide dog", "doggo", "wolf"])
    assert found == pytest.approx([ENOUGH, ENOUGH_OF_TWO, np.inf, ENOUGH + RARELY_NOUN])
    assert "dog" in SHOWN.format("dog")


def test_two_words_are_left_out_where_the_second_tells_as_much() -> None:
    words = ["guide dog", "beagle", "fire ball", "dust"]
    scores = np.array([[1.5, 0.0], [0.9, 0.1], [1.2, 0.3], [0.2, 0.1]], np.float32)
    enough = np.array([1.0, 0.6, 1.0, 0.6], np.float32)
    assert nearest(words, scores, enough, (DOG, BALL), WordNet()) == {"beagle": 0, "fire ball": 0}


def test_a_word_gives_its_plural_away_to_none() -> None:
    net = WordNet()
    net.plurals["ox"].append("oxen")
    net.plurals["sheep"].append("sheep")
    words = ["cur", "curs", "marbles", "ox", "oxen", "sheep"]
    scores = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    found = nearest(words, scores, np.full(len(words), 0.5, np.float32), (DOG, BALL), net)
    assert found == {"cur": 0, "marbles": 1, "ox": 0, "sheep": 0}


def test_candidates_are_common_nouns_that_captions_leave_free() -> None:
    net = WordNet()
    words = ["beagle", "ox", "guide dog", "an ox", "puppy", "dogs", "red ant", "blues", "trans-rex", "rex"]
    net.senses.update({word: [word] for word in words})
    net.common.update(set(words) - {"rex"})
    assert candidates(net, (DOG, BALL), {"red", "blues"}) == ["beagle", "ox", "guide dog"]
