"""The transformer's training: what a step learns from, what its loss weighs, how experts are kept even."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from training.dit import COVER_WEIGHT, Pools, Timetable, balance, loss_of, noise_frames
from training.pool import Batch, LatentPool
from training.team import Team

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import Wan

CONFIG = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    ffn_dim=32,
    text_dim=8,
    text_len=5,
    freq_dim=16,
    experts=ExpertsConfig(num_experts=4, top_k=1, expert_dim=8, shared_dim=8),
    pooled_dim=8,
)


class Words:
    """Stands in for the text encoder: states that hold the caption's number."""

    text_len = 5

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.tensor([float(caption or -1) for caption in captions])
        return values[:, None, None].expand(-1, 3, 8), values[:, None].expand(-1, 8)


def pool(num: int, frames: int, captions_a_clip: int) -> LatentPool:
    latents = torch.arange(float(num))[:, None, None, None, None].expand(-1, 4, frames, 4, 4)
    captions = [str(clip) for clip in range(num) for _ in range(captions_a_clip)]
    cover = torch.full((num, 1, frames, 4, 4), 51, dtype=torch.uint8)
    return LatentPool(latents, cover, captions, Words())  # type: ignore[arg-type]


def batch(frames: int = 3) -> Batch:
    return pool(6, frames, 1).batch(4)


@pytest.fixture
def model() -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wan(CONFIG, expert_kernel="dense")


@pytest.mark.parametrize("captions_a_clip", [1, 3])
def test_a_batch_holds_clips_with_their_own_captions(captions_a_clip: int) -> None:
    clips = pool(50, 3, captions_a_clip).batch(40, dropped=0.5)
    number = clips.latents[:, 0, 0, 0, 0]
    dropped = clips.pooled[:, 0] < 0
    assert 0 < dropped.sum() < 40
    assert torch.equal(clips.pooled[:, 0], torch.where(dropped, -1.0, number))
    assert torch.equal(clips.states[:, 0, 0], clips.pooled[:, 0])
    assert clips.states.shape == (40, 5, 8)  # padded with zeros to the text's length
    assert not clips.states[:, 3:].any()
    assert torch.allclose(clips.cover, torch.tensor(0.2))


def test_images_weigh_as_much_as_clips() -> None:
    pools = Pools(images=pool(6, 1, 1), clips=pool(6, 3, 3))
    assert pools.batch(2, takes_images=False).latents.shape == (2, 4, 3, 4, 4)
    assert pools.batch(2, takes_images=True).latents.shape == (16, 4, 1, 4, 4)


def test_a_part_begins_with_images_and_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Timetable(seconds=100, begin=0.5, end=1.0, images_first=0.3, image_share=0.25)
    part.shorten(50)
    part.shorten(80)
    monkeypatch.setattr("time.time", lambda: 1010.0)
    chance = random.Random(0)
    assert part.look(1000.0, Team())
    assert part.place == pytest.approx(0.2)
    assert part.rate == pytest.approx(replace(part, begin=0.6, end=0.6).rate)
    assert all(part.takes_images(chance) for _ in range(50))
    assert part.look(975.0, Team())
    assert 180 < sum(part.takes_images(chance) for _ in range(1000)) < 320
    assert not part.look(960.0, Team())
    assert part.rate == pytest.approx(0.0, abs=1e-9)


def test_the_loss_weighs_sprites_more(model: Wan, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = batch(frames=1)
    monkeypatch.setattr(Wan, "forward", lambda self, x, *_, **__: torch.zeros_like(x))
    half = torch.zeros_like(clips.cover)
    half[..., :2] = 1.0
    error = torch.tensor([3.0, 1.0]).repeat_interleave(2).view(1, 1, 1, 1, 4)

    def noised(latents: torch.Tensor, *_: torch.Tensor) -> object:
        found = noise_frames(latents)
        velocity = error.sqrt().expand_as(latents)
        return replace(found, velocity=velocity, weight=torch.ones(len(latents), 1, 1, 1, 1))

    monkeypatch.setattr("training.dit.noise_whole", noised)
    plain = loss_of(model, replace(clips, cover=torch.zeros_like(half)), [])
    weighed = loss_of(model, replace(clips, cover=half), [])
    assert plain.item() == pytest.approx(2.0)
    assert weighed.item() == pytest.approx((3 * (1 + COVER_WEIGHT) + 1) / (2 + COVER_WEIGHT))


@pytest.mark.parametrize("frames", [1, 3])
def test_every_parameter_learns_from_images_and_from_clips(model: Wan, frames: int) -> None:
    loads: list[torch.Tensor] = []
    loss_of(model, batch(frames), loads).backward()
    tokens = sum(load.sum().item() for load in loads)
    assert tokens == 4 * frames * 4 * CONFIG.num_layers
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.endswith("router_bias")), name


def test_the_bias_moves_towards_idle_experts(model: Wan) -> None:
    loads = [torch.tensor([4.0, 0.0, 2.0, 2.0])] * (2 * CONFIG.num_layers)  # of two forwards
    assert balance(model, loads, 0.1, Team()).item() == 2.0
    for block in model.blocks:
        assert torch.allclose(block.ffn.router_bias, torch.tensor([-0.1, 0.1, 0.0, 0.0]))
