from dataclasses import fields

import numpy as np
import pytest
import torch
from training.world.attributes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MEDIUM,
    MOTIONS,
    NATURAL,
    NO_SUBJECT,
    STATIC,
)
from training.world.held_out import held_out_mask
from training.world.motions import poses
from training.world.renderer import Renderer
from training.world.scenes import Scenes, sample_scenes
from training.world.sprites import load_sprites
from training.world.subjects import subjects


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    torch.set_num_threads(1)
    return Renderer(num_variants=2)


def scenes_with(num: int, seed: int = 0, **columns: int | float) -> Scenes:
    """Training scenes of one subject whose given columns hold one value."""
    scenes = sample_scenes(num, np.random.default_rng(seed), split="any")
    fixed = {"subject2": NO_SUBJECT, "camera": STATIC, "size": MEDIUM} | columns
    for name, value in fixed.items():
        getattr(scenes, name)[:] = value
    return scenes


def sheep() -> int:
    """A sprite without a hue of its own, opaque in the middle."""
    return next(each.id for each in subjects() if each.noun == "sheep")


def drawn_poses(scenes: Scenes, num_frames: int = 33):
    columns = {field.name: torch.from_numpy(getattr(scenes, field.name)) for field in fields(scenes)}
    whole = {name: columns[name].long() for name in ("motion", "count", "size", "heading")}
    real = {name: columns[name] for name in ("phase", "speed", "x", "y")}
    frames = torch.linspace(0, 32, num_frames).expand(len(scenes), -1)
    return poses(frames=frames, **whole, **real)


def test_clips_have_the_agreed_shape_and_range(renderer):
    clips = renderer.render(sample_scenes(2, np.random.default_rng(0)))
    assert clips.shape == (2, 3, 33, 128, 192)
    assert clips.min() >= -1
    assert clips.max() <= 1
    assert clips.std() > 0.2


def test_held_out_triples_are_refused_unless_allowed(renderer):
    scenes = scenes_with(1)
    scenes.subject[0], scenes.motion[0], scenes.background[0] = np.argwhere(held_out_mask())[0]
    frames = torch.tensor([0])
    with pytest.raises(ValueError, match="held-out"):
        renderer.render(scenes, frames=frames)
    assert renderer.render(scenes, frames=frames, allow_held_out=True).shape == (1, 3, 1, 128, 192)


def test_a_held_out_second_subject_is_refused_too(renderer):
    scenes = scenes_with(1, count=2)
    scenes.subject2[0], scenes.motion[0], scenes.background[0] = np.argwhere(held_out_mask())[5]
    scenes.subject[0] = np.flatnonzero(~held_out_mask()[:, scenes.motion[0], scenes.background[0]])[0]
    with pytest.raises(ValueError, match="held-out"):
        renderer.render(scenes, frames=torch.tensor([0]))


def test_some_frames_are_the_same_pixels(renderer):
    scenes = sample_scenes(2, np.random.default_rng(1))
    some = renderer.render(scenes, frames=torch.tensor([0, 8, 32]))
    torch.testing.assert_close(some, renderer.render(scenes)[:, :, [0, 8, 32]], atol=1e-4, rtol=0)


def test_a_crop_is_a_window_of_the_clip(renderer):
    scenes = scenes_with(1, seed=4, motion=MOTIONS.index("circles"), camera=CAMERAS.index("pan left"))
    size = (5, 48, 64)
    crop = renderer.render(
        scenes, crop=size, generator=torch.Generator().manual_seed(0), allow_held_out=True
    )[0]
    whole = renderer.render(scenes, allow_held_out=True)[0]
    places = whole[:, : 33 - 4, : 128 - 47, : 192 - 63]
    distance = torch.zeros(places.shape[1:])
    for t, y, x in ((0, 0, 0), (4, 47, 63), (0, 47, 0), (4, 0, 63), (2, 24, 32), (4, 24, 10)):
        shifted = whole[:, t : t + places.shape[1], y : y + places.shape[2], x : x + places.shape[3]]
        distance += (shifted - crop[:, t, y, x, None, None, None]).abs().sum(0)
    t, y, x = np.unravel_index(distance.argmin().item(), distance.shape)
    torch.testing.assert_close(crop, whole[:, t : t + 5, y : y + 48, x : x + 64], atol=1e-4, rtol=0)


def test_a_scene_looks_the_same_in_any_batch(renderer):
    scenes = sample_scenes(3, np.random.default_rng(2))
    frames = torch.tensor([0, 20])
    together = renderer.render(scenes, frames=frames)
    alone = renderer.render(scenes[2:3], frames=frames)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=0)


def test_all_copies_stay_whole_in_the_picture():
    scenes = sample_scenes(6000, np.random.default_rng(3))
    pose = drawn_poses(scenes)
    count = torch.from_numpy(scenes.count)[:, None]
    half_width = 0.5 * (count - 1) * pose.spacing + 0.5 * pose.scale_x.abs()
    assert (pose.x.abs() + half_width).max() < 96
    assert (pose.y.abs() + 0.5 * pose.scale_y).max() < 64


def test_neighbouring_copies_do_not_touch():
    """No opaque pixel of a sprite leaves its cell of the row, however the sprite is turned."""
    sprites = load_sprites()
    place = torch.arange(80) - 39.5
    radius = torch.where(
        sprites[:, 3] > 0.5, torch.hypot(*torch.meshgrid(place, place, indexing="ij")), 0
    ).max()
    pose = drawn_poses(sample_scenes(2000, np.random.default_rng(3)))
    is_turned = pose.angle.abs() > 0.01
    reach = torch.where(is_turned, radius / 40, 1.0) * 0.5 * pose.scale_x.abs()
    assert (2 * reach <= pose.spacing).all()


@pytest.mark.parametrize(
    ("motion", "measure"),
    [
        ("right", lambda pose: pose.x[:, -1] - pose.x[:, 0] - 22),
        ("left", lambda pose: pose.x[:, 0] - pose.x[:, -1] - 22),
        ("rises", lambda pose: pose.y[:, 0] - pose.y[:, -1] - 30),
        ("falls", lambda pose: pose.y[:, -1] - pose.y[:, 0] - 30),
        ("bounces", lambda pose: pose.y.amax(1) - pose.y.amin(1) - 30),
        ("spins", lambda pose: (pose.angle[:, -1] - pose.angle[:, 0]).abs() - 5.3),
        ("grows", lambda pose: pose.scale_y[:, -1] / pose.scale_y[:, 0] - 1.9),
        ("shrinks", lambda pose: pose.scale_y[:, 0] / pose.scale_y[:, -1] - 1.9),
        ("shakes", lambda pose: pose.x.diff(dim=1).sign().diff(dim=1).ne(0).sum(1) - 6),
        ("circles", lambda pose: pose.y.amax(1) - pose.y.amin(1) + pose.x.amax(1) - pose.x.amin(1) - 60),
        ("swings", lambda pose: pose.angle.amax(1) - pose.angle.amin(1) - 0.8),
        ("turns", lambda pose: -pose.scale_x.amin(1) / pose.scale_y[:, 0] - 0.8),
        ("zigzags", lambda pose: (pose.x[:, -1] - pose.x[:, 0]).abs() - 22),
        ("still", lambda pose: 0.001 - pose.x.std(1) - pose.y.std(1) - pose.angle.abs().amax(1)),
    ],
)
def test_each_motion_shows_clearly_at_every_count_and_size(motion, measure):
    scenes = sample_scenes(300, np.random.default_rng(5), split="any")
    scenes.motion[:] = MOTIONS.index(motion)
    assert (measure(drawn_poses(scenes)) >= 0).all()


def test_a_row_shows_its_count(renderer):
    """As many red stretches from left to right as there are red dogs."""
    stretches = []
    for count in (1, 2, 3):
        scenes = scenes_with(1, count=count, size=0, motion=MOTIONS.index("still"), colour=1, x=0.0, y=0.0)
        scenes.subject[:], scenes.background[:] = 0, BACKGROUNDS.index("snow")
        clip = renderer.render(scenes, frames=torch.tensor([0]), allow_held_out=True)[0, :, 0]
        is_red = (clip[0] - clip[2]) > 0.6
        columns = is_red.any(0).int()
        stretches.append(int((columns.diff() == 1).sum()))
    assert stretches == [1, 2, 3]


def test_colours_are_what_they_are_called(renderer):
    frames, means = torch.tensor([0]), {}
    for index, name in enumerate(COLOURS):
        scenes = scenes_with(1, colour=index, count=1, size=2, motion=MOTIONS.index("still"), x=0.0, y=0.0)
        scenes.subject[:] = sheep()
        clip = renderer.render(scenes, frames=frames, allow_held_out=True)
        means[name] = clip[0, :, 0, 44:84, 76:116].mean((1, 2))
    red, green, blue = range(3)
    assert means["red"].argmax() == red
    assert means["green"].argmax() == green
    assert means["blue"].argmax() == blue
    assert means["yellow"].argmin() == blue
    assert means["purple"].argmin() == green
    assert means["pink"].argmin() == green
    names = [name for name in COLOURS if name != COLOURS[NATURAL]]
    distances = [torch.dist(means[a], means[b]) for a in names for b in names if a < b]
    assert min(distances) > 0.25


def test_the_camera_moves_the_background_only(renderer):
    scenes = scenes_with(len(CAMERAS), motion=MOTIONS.index("still"), view=0.0, size=2, count=1, x=0.0, y=0.0)
    scenes.subject[:], scenes.background[:] = sheep(), BACKGROUNDS.index("mountains")
    scenes.camera[:] = np.arange(len(CAMERAS))
    clips = renderer.render(scenes, frames=torch.tensor([0, 32]), allow_held_out=True)
    moved = (clips[:, :, 0] - clips[:, :, 1]).abs()
    assert moved[STATIC].max() < 1e-6
    assert moved[STATIC + 1 :].mean((1, 2, 3)).min() > 0.02
    assert moved[:, :, 58:70, 90:102].max() < 1e-3


def test_sprites_look_where_they_go(renderer):
    scenes = scenes_with(2, count=1, x=0.0, y=0.0, speed=1.0, colour=1, background=BACKGROUNDS.index("snow"))
    scenes.subject[:] = next(each.id for each in subjects() if each.noun == "train")
    scenes.motion[:], scenes.heading[:] = (MOTIONS.index("left"), MOTIONS.index("right")), (-1, 1)
    clips = renderer.render(scenes, frames=torch.tensor([16]), allow_held_out=True)[:, :, 0]
    left, right = clips[:, 0, 34:94, 66:126] - clips[:, 2, 34:94, 66:126]
    assert torch.dist(left, right.flip(1)) < 0.5 * torch.dist(left, right)


def test_each_background_is_nearest_to_its_own_kind(renderer):
    """Mean colours of eight bands tell every class, whatever its palette's jitter."""
    scenes = scenes_with(2 * len(BACKGROUNDS), size=0, count=1, motion=MOTIONS.index("still"))
    scenes.background[:], scenes.variant[:] = (
        np.repeat(np.arange(len(BACKGROUNDS)), 2),
        [0, 1] * len(BACKGROUNDS),
    )
    clips = renderer.render(scenes, frames=torch.tensor([0]), allow_held_out=True)[:, :, 0]
    bands = clips.unflatten(2, (8, 16)).mean((3, 4)).flatten(1)
    distance = torch.cdist(bands[0::2], bands[1::2])
    assert (distance.argmin(1) == torch.arange(len(BACKGROUNDS))).all()
