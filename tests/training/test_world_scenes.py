import numpy as np
import pytest
import torch
from training.world.attributes import BACKGROUNDS, COLOURS, MOTIONS, NATURAL, NO_SUBJECT
from training.world.held_out import choose_triples, held_out_mask
from training.world.scenes import sample_scenes
from training.world.subjects import subjects


def test_no_training_scene_shows_a_held_out_triple():
    scenes = sample_scenes(30000, np.random.default_rng(0))
    mask = held_out_mask()
    assert not mask[scenes.subject, scenes.motion, scenes.background].any()
    pairs = scenes[scenes.subject2 != NO_SUBJECT]
    assert not mask[pairs.subject2, pairs.motion, pairs.background].any()


def test_the_unrestricted_split_does_show_some():
    share = sample_scenes(20000, np.random.default_rng(0), split="any").held_out().mean()
    assert 0.05 < share < 0.09


def test_an_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match="'train' or 'any'"):
        sample_scenes(1, np.random.default_rng(0), split="test")


def test_the_committed_list_follows_its_rule():
    mask = held_out_mask()
    triples = choose_triples()
    assert len(set(triples)) == mask.sum() == 1248
    names = [subject.noun for subject in subjects()]
    for noun, motion, background in triples:
        assert mask[names.index(noun), MOTIONS.index(motion), BACKGROUNDS.index(background)]


def test_held_out_triples_cover_everything_evenly():
    mask = held_out_mask()
    assert (mask.sum((1, 2)) == 12).all()
    for axes in ((0, 2), (0, 1)):
        counts = mask.sum(axes)
        assert counts.max() - counts.min() <= 1


def test_attributes_are_balanced_and_pairs_are_of_two_kinds():
    scenes = sample_scenes(40000, np.random.default_rng(3))
    for column, num_values in ((scenes.subject, 104), (scenes.motion, 14), (scenes.background, 14)):
        share = np.bincount(column, minlength=num_values) * num_values / len(scenes)
        assert share.min() > 0.85
        assert share.max() < 1.15
    pairs = scenes[scenes.subject2 != NO_SUBJECT]
    assert 0.08 < len(pairs) / len(scenes) < 0.12
    assert (pairs.subject != pairs.subject2).all()
    assert (pairs.count == 2).all()
    assert set(np.unique(scenes.count)) == {1, 2, 3}


def test_a_subject_of_one_plain_colour_is_never_natural():
    scenes = sample_scenes(20000, np.random.default_rng(4))
    has_colour = np.array([subject.colour is not None for subject in subjects()])
    assert (scenes.colour[has_colour[scenes.subject]] != NATURAL).all()
    assert {subject.colour for subject in subjects()} <= {None, *COLOURS[1:]}


def test_the_same_seed_gives_the_same_scenes_and_a_slice_is_a_view():
    first, second = (sample_scenes(500, np.random.default_rng(9)) for _ in range(2))
    assert (first.phase == second.phase).all()
    assert (first.subject == second.subject).all()
    assert len(first[10:30]) == 20
    assert first[10:30].motion.base is first.motion or np.shares_memory(first[10:30].motion, first.motion)


def test_scenes_move_to_torch_without_a_copy():
    scenes = sample_scenes(4, np.random.default_rng(0))
    torch.from_numpy(scenes.x)[0] = 0.25
    assert scenes.x[0] == 0.25
