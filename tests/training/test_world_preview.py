import torch
from training.world.preview import CAPTION_HEIGHT, contact_sheet
from training.world.sprites import RADIUS, SPRITE_SIZE, load_sprites
from training.world.subjects import subjects


def test_a_contact_sheet_lays_frames_side_by_side_under_their_caption():
    clips = torch.full((3, 3, 2, 8, 12), -1.0)
    clips[1, :, 1] = 1.0
    sheet = contact_sheet(clips, ["first", "second", "third"], columns=2)
    row_width, row_height = 2 * 12 + 6, 8 + CAPTION_HEIGHT
    assert sheet.size == (2 * row_width, 2 * row_height)
    assert sheet.getpixel((5, CAPTION_HEIGHT + 4)) == (0, 0, 0)
    assert sheet.getpixel((row_width + 12 + 5, CAPTION_HEIGHT + 4)) == (255, 255, 255)
    assert sheet.getpixel((row_width + 5, CAPTION_HEIGHT + 4)) == (0, 0, 0)


def test_every_subject_has_a_large_sprite_of_its_own():
    sprites = load_sprites()
    assert sprites.shape == (len(subjects()), 4, SPRITE_SIZE, SPRITE_SIZE)
    opaque = sprites[:, 3] > 0.5
    assert opaque.flatten(1).float().mean(1).min() > 0.15
    place = torch.arange(SPRITE_SIZE) - (SPRITE_SIZE - 1) / 2
    distance = torch.hypot(place[:, None], place[None])
    assert (opaque * distance).max() < RADIUS + 1.5
    flat = (sprites[:, :3] * sprites[:, 3:]).flatten(1)
    apart = torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))
    assert apart.min() > 20
