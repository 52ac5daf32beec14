"""Tiles: where they lie, how they are blended, what they cost in picture and save in memory."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training.clips import ClipSource

from rushes.config import TOY_FOLDER
from rushes.errors import ConfigError
from rushes.models.checkpoint import open_checkpoint
from rushes.models.configs import WanVAEConfig
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.passes.plan import Plan
from rushes.passes.vae import VaeCompile, VaeFused, VaeTiling
from rushes.passes.vae_tiled_step import TiledStep, lay_tiles

SHALLOW = WanVAEConfig(base_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))


@pytest.mark.parametrize(
    ("cells", "tile", "overlap", "num"),
    [
        ((60, 104), (34, 56), 8, 4),
        ((60, 104), (32, 32), 8, 12),
        ((10, 9), (34, 56), 8, 1),
        ((7, 20), (8, 8), 3, 4),
    ],
)
def test_tiles_are_equal_overlap_and_cover(
    cells: tuple[int, int], tile: tuple[int, int], overlap: int, num: int
) -> None:
    tiles = lay_tiles(cells, tile, overlap)
    assert len(set(tiles.corners)) == len(tiles.corners) == num
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in tiles.corners})
        assert (starts[0], starts[-1] + tiles.size[axis]) == (0, cells[axis])
        for before, after in pairwise(starts):
            assert before + tiles.size[axis] - after >= overlap


def constant(vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    """A step whose pixels are copies of the first channel of their cell: seams cannot show."""
    video = latent[:, :1].repeat_interleave(2, -1).repeat_interleave(2, -2).expand(-1, 3, -1, -1, -1)
    return video, DecodeState(past=(latent,))


@pytest.mark.parametrize("together", [False, True])
def test_blending_weighs_to_one(together: bool) -> None:
    latent = torch.randn(2, 16, 1, 9, 13)
    step = TiledStep(constant, (5, 6), 2, together=together)
    video, state = step(WanVAE(SHALLOW), latent, None)
    assert torch.allclose(video, constant(WanVAE(SHALLOW), latent, None)[0], atol=1e-6)
    again, _ = step(WanVAE(SHALLOW), latent, state)
    assert torch.equal(again, video)


def decoded(vae: WanVAE, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.decode(latents)


@pytest.mark.parametrize("together", [False, True])
def test_one_tile_is_the_whole_decode_and_a_clip_streams(together: bool) -> None:
    torch.manual_seed(0)
    vae, latents = WanVAE(SHALLOW).eval(), torch.randn(1, 16, 3, 4, 5)
    whole = decoded(vae, latents)
    tiled = decoded(VaeTiling(tile=(8, 8), overlap=2, together=together).apply(vae), latents)
    assert torch.allclose(tiled, whole, atol=1e-6)


def test_tiles_in_turn_and_together_are_alike_with_every_step() -> None:
    latents = torch.randn(2, 16, 3, 8, 7)
    clips = []
    for others in ((), (VaeFused(kernels="torch"),), (VaeCompile(backend="eager"),)):
        for together in (False, True):
            torch.manual_seed(0)
            vae = WanVAE(SHALLOW).eval()
            plan = Plan(passes=(VaeTiling(tile=(5, 5), overlap=2, together=together), *others))
            clips.append(decoded(plan.apply("vae", vae), latents))
    assert all((clip - clips[0]).abs().amax() < 1e-5 for clip in clips)


@pytest.fixture(scope="module")
def toy() -> Callable[[], WanVAE]:
    return lambda: open_checkpoint(TOY_FOLDER).load_vae("cpu", torch.float32)


def test_seams_of_a_trained_vae(toy: Callable[[], WanVAE]) -> None:
    video = ClipSource(seed=9).draw(2, crop=(5, 128, 128)).video
    with torch.no_grad():
        latents = toy().encode(video)
    whole = decoded(toy(), latents)
    tiled = decoded(VaeTiling(tile=(10, 10), overlap=4).apply(toy()), latents)
    squared = ((tiled - whole) / 2).square().mean()
    assert squared > 0
    assert -10 * torch.log10(squared) > 30


class LargestTensor(TorchDispatchMode):
    """Values of the largest tensor that an operation made, other than blended frames."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.values = max(self.values, tensor.numel())
        return out


def test_tiles_in_turn_need_less_at_a_time(toy: Callable[[], WanVAE]) -> None:
    latent = torch.randn(1, 16, 1, 18, 18)
    largest = {}
    for name, vae in (("whole", toy()), ("tiled", VaeTiling(tile=(10, 10), overlap=2).apply(toy()))):
        _, state = vae.decode_step(latent, None)
        with LargestTensor() as seen, torch.no_grad():
            vae.decode_step(latent, state)
        largest[name] = seen.values
    assert largest["tiled"] < 1.1 * (10 * 10) / (18 * 18) * largest["whole"]


@pytest.mark.parametrize(("tile", "overlap"), [((8, 8), 8), ((8, 4), 5), ((8, 8), 0), ((8, 8, 8), 2)])
def test_bad_tiles_refused(tile: tuple[int, int], overlap: int) -> None:
    with pytest.raises(ConfigError, match="less than a tile's rows and columns"):
        VaeTiling(tile=tile, overlap=overlap)


def test_only_a_vae_is_tiled() -> None:
    with pytest.raises(ConfigError, match="a Linear is no WanVAE"):
        VaeTiling().apply(torch.nn.Linear(1, 1))
