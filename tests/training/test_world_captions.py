import random
import re

import numpy as np
from training.world.attributes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    COUNTS,
    MOTIONS,
    NATURAL,
    NO_SUBJECT,
    SIZES,
)
from training.world.captions import canonical_caption, caption, captions
from training.world.phrases import CAMERA_WORDS, COUNT_WORDS, PLACES, SIZE_WORDS, VERBS
from training.world.prompts import evaluation_prompts, synonym_prompts
from training.world.scenes import sample_scenes
from training.world.subjects import subjects


def held_out_words() -> set[str]:
    return {form for subject in subjects() for noun in subject.held_out for form in (noun.one, noun.many)}


def says(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def test_every_attribute_value_has_words():
    assert set(VERBS) == set(MOTIONS)
    assert set(PLACES) == set(BACKGROUNDS)
    assert set(CAMERA_WORDS) == set(CAMERAS)
    assert set(SIZE_WORDS) == set(SIZES)
    assert set(COUNT_WORDS) == set(COUNTS) - {1}


def test_no_phrase_means_two_things():
    for table in (VERBS, PLACES):
        phrases = [phrase for choices in table.values() for phrase in set(choices)]
        assert len(phrases) == len(set(phrases))


def test_names_are_unique_and_held_out_names_are_unseen():
    names = [noun.one for subject in subjects() for noun in subject.training]
    assert len(names) == len(set(names))
    trained = {form for subject in subjects() for noun in subject.training for form in (noun.one, noun.many)}
    assert not trained & held_out_words()
    assert len(subjects()) == 104
    assert sum(bool(subject.held_out) for subject in subjects()) >= 30
    assert all(3 <= len(subject.training) <= 8 for subject in subjects())


def test_training_captions_never_use_a_held_out_name_of_their_subject():
    scenes = sample_scenes(5000, np.random.default_rng(0))
    for row, text in enumerate(captions(scenes, random.Random(0))):
        for noun in subjects()[scenes.subject[row]].held_out:
            forms = [each.one for each in subjects()[scenes.subject[row]].training]
            if not any(noun.one in form for form in forms):
                assert not says(text.lower(), noun.one), text


def test_captions_are_varied_and_repeatable():
    scenes = sample_scenes(2000, np.random.default_rng(1))
    texts = captions(scenes, random.Random(5))
    assert texts == captions(scenes, random.Random(5))
    assert len(set(texts)) > 1980
    chance = random.Random(0)
    assert len({caption(scenes, 0, chance) for _ in range(50)}) > 40


def test_colour_count_and_camera_are_said_unless_default():
    scenes = sample_scenes(3000, np.random.default_rng(2))
    for row, text in enumerate(captions(scenes, random.Random(1))):
        text = text.lower()
        colour = COLOURS[scenes.colour[row]]
        if scenes.colour[row] != NATURAL and colour != subjects()[scenes.subject[row]].colour:
            assert says(text, colour), text
        if scenes.count[row] > 1 and scenes.subject2[row] == NO_SUBJECT:
            assert any(word in text for word in COUNT_WORDS[scenes.count[row]]), text
        assert any(words in text for words in CAMERA_WORDS[CAMERAS[scenes.camera[row]]]), text


def test_a_canonical_caption_names_everything_plainly():
    scenes = sample_scenes(200, np.random.default_rng(6))
    for row in range(len(scenes)):
        text = canonical_caption(scenes, row)
        noun = subjects()[scenes.subject[row]].training[0]
        assert noun.one in text or noun.many in text
        assert PLACES[BACKGROUNDS[scenes.background[row]]][0] in text
        verb = VERBS[MOTIONS[scenes.motion[row]]][0]
        assert (verb.one if scenes.count[row] == 1 else verb.many) in text


def test_evaluation_prompts_are_unseen_and_name_all_attributes():
    prompts = evaluation_prompts()
    scenes = prompts.scenes
    assert len(prompts.texts) == len(scenes) == len(set(prompts.seeds)) == 1040
    assert scenes.held_out().all()
    triples = set(
        zip(scenes.subject.tolist(), scenes.motion.tolist(), scenes.background.tolist(), strict=True)
    )
    assert len(triples) == 1040
    assert (np.bincount(scenes.colour)[1:] >= 170).all()
    assert NATURAL not in scenes.colour
    assert np.ptp(np.bincount(scenes.count)[1:]) <= 3
    for row, text in enumerate(prompts.texts):
        assert says(text, COLOURS[scenes.colour[row]])
        assert any(says(text, place) for place in PLACES[BACKGROUNDS[scenes.background[row]]])
        verbs = VERBS[MOTIONS[scenes.motion[row]]]
        assert any(form in text for verb in verbs for form in (verb.one, verb.many, verb.ing))
        nouns = subjects()[scenes.subject[row]].training
        assert any(form in text for noun in nouns for form in (noun.one, noun.many))


def test_synonym_prompts_call_every_subject_by_an_unseen_name():
    prompts = synonym_prompts()
    for subject, text in zip(prompts.scenes.subject, prompts.texts, strict=True):
        forms = [form for noun in subjects()[subject].held_out for form in (noun.one, noun.many)]
        assert any(says(text, form) for form in forms), text
    assert len(set(prompts.scenes.subject.tolist())) >= 30


def test_prompts_are_the_same_every_time():
    assert evaluation_prompts(50).texts == evaluation_prompts(50).texts
    assert evaluation_prompts(50, seed=2).texts != evaluation_prompts(50, seed=3).texts
