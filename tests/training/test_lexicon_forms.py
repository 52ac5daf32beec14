"""Names cut short or made small."""

from training.lexicon_forms import LEAST_CUT, SHORTEST, by_form, clips, diminutives
from training.wordnet import WordNet
from training.world.subjects import Noun, Subject, subjects


def _subject(number: int, *names: str) -> Subject:
    nouns = tuple(Noun(one=name, many=f"{name}s") for name in names)
    return Subject(
        id=number, emoji="", noun=names[0], faces_left=None, colour=None, training=nouns, held_out=()
    )


DINOSAUR, FROG = _subject(0, "dinosaur", "steam dinosaur"), _subject(1, "frog", "centaur")


def test_a_clip_is_a_beginning_with_enough_on_either_side() -> None:
    for name in ("telephone", "hamburger", "dinosaur"):
        for clip in clips(name):
            assert name.startswith(clip)
            assert SHORTEST <= len(clip) <= len(name) - LEAST_CUT
    assert list(clips("telephone")) == ["tele", "telep", "teleph"]  # then a third syllable begins
    assert list(clips("frog")) == []


def test_a_short_vowel_doubles_the_consonant_of_a_diminutive() -> None:
    pairs = {"frog": "froggy", "duck": "ducky", "bear": "beary", "cow": "cowy", "fox": "foxy"}
    assert {name: next(diminutives(name)) for name in pairs} == pairs
    assert [list(diminutives(name)) for name in ("snake", "giraffe", "bee")] == [[], [], []]


def test_a_form_is_of_one_subject_and_no_word_of_its_own() -> None:
    found = by_form(WordNet(), [DINOSAUR, FROG])
    assert found == {"dino": 0, "dinos": 0, "cent": 1, "froggy": 1}
    net = WordNet()
    net.lemmas.update({"dino", "cent"})
    assert by_form(net, [DINOSAUR, FROG]) == {"froggy": 1}  # "dinos" are several of a word
    assert by_form(WordNet(), [FROG], used={"cents"}) == {"froggy": 1}
    assert "cent" not in by_form(WordNet(), [FROG, _subject(2, "centimetre")])


def test_no_form_of_the_toys_names_is_a_name() -> None:
    names = {form for subject in subjects() for noun in subject.training for form in (noun.one, noun.many)}
    assert names.isdisjoint(by_form(WordNet(), subjects()))
