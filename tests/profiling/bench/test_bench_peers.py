"""Peers: what each lacks is said by name before anything runs; diffusers makes the clip that we make."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rushes.errors import ConfigError, EngineError, InvalidRequest, UnknownName
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.profiling.bench.base import Place
from rushes.profiling.bench.cold_start import cold_start
from rushes.profiling.bench.contenders import PEERS, check_peer, open_contender
from rushes.profiling.bench.measure import measure, shortest
from rushes.profiling.bench.ours import Rushes, open_rushes
from rushes.profiling.bench.quality import difference, make_clip
from rushes.types import GenerateRequest
from tiny_parts import tiny_model

SMALL = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny A14B: two noise experts."""
    folder = make_checkpoint("a14b", tmp_path_factory.mktemp("tiny") / "a14b")
    return Place(model=str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def ours(place: Place) -> Rushes:
    return open_rushes(place)


@pytest.fixture(scope="module")
def request_(ours: Rushes) -> GenerateRequest:
    return ours.model.job("two red dogs", **SMALL).request


@pytest.mark.parametrize("name", PEERS.names())
def test_no_peer_runs_the_toy(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^peer {name}: toy: .*diffusers does not know .*experts"):
        check_peer(name, Place(model="toy", device="cpu", dtype="float32"))


def test_a_folder_in_wans_layout_is_none_of_diffusers(tmp_path: Path) -> None:
    folder = make_checkpoint("ti2v-5b", tmp_path / "tiny", "wan")
    with pytest.raises(ConfigError, match=r"diffusers reads its own layout, .* is in the wan layout"):
        check_peer("diffusers", Place(model=str(folder), device="cpu", dtype="float32"))


def test_what_is_not_installed_is_named(place: Place) -> None:
    packages = {"diffusers-fp8": ("torchao", "torchao"), "diffusers-cache-dit": ("cache_dit", "cache-dit")}
    for name, (package, install) in packages.items():
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ConfigError, match=rf"peer {name}: .*pip install {install}\)"):
                check_peer(name, place)
    with pytest.raises(UnknownName, match="did you mean 'diffusers'"):
        open_contender("difusers", place)


def test_compilation_needs_a_compiler(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"peer diffusers-compile: .*needs a C\+\+ compiler"):
        check_peer("diffusers-compile", place)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_diffusers_makes_our_clip(place: Place, ours: Rushes, request_: GenerateRequest) -> None:
    theirs = open_contender("diffusers", place)
    found = measure(theirs, request_)
    assert list(found.stages_s) == ["text_encode", "denoise", "vae_decode", "postprocess", "video_encode"]
    assert min(found.stages_s.values()) > 0
    assert 0 <= found.other_s < 0.1 * found.end_to_end_s + 0.05
    assert found.first_preview_s is None
    pair = [make_clip(contender, request_) for contender in (ours, theirs)]
    apart = difference(pair[:1], pair[1:])
    assert len(apart.latent_l1_curve) == 4
    assert max(apart.latent_l1_curve) < 1e-5
    assert apart.comparison.psnr_db > 60
    other = make_clip(theirs, replace(request_, sampling=replace(request_.sampling, seed=4)))
    assert difference(pair[:1], [other]).latent_l1 > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "lcm"}, r"the solver 'lcm' \(it has unipc"),
        ({"timesteps": (1000.0, 500.0)}, "fixed timesteps"),
        ({"lora": "fast.safetensors"}, "a LoRA"),
    ],
)
def test_what_diffusers_has_no_setting_for(
    request_: GenerateRequest, change: dict[str, object], message: str
) -> None:
    from rushes.profiling.bench.diffusers_pipeline import check_request

    with pytest.raises(InvalidRequest, match=f"peer diffusers: cannot run this request: .*{message}"):
        check_request("diffusers", replace(request_, sampling=replace(request_.sampling, **change)))
    with pytest.raises(InvalidRequest, match="the causal mode"):
        check_request("diffusers", replace(request_, mode="causal"))


def test_the_latents_of_our_steps(ours: Rushes, request_: GenerateRequest) -> None:
    made = make_clip(ours, request_)
    whole = ours.model.generate("two red dogs", output="latents", **SMALL)
    assert len(made.latents) == SMALL["num_inference_steps"]
    assert torch.equal(made.latents[-1], whole.latents)
    assert not torch.equal(made.latents[0], made.latents[1])


def test_a_causal_clip_has_whole_latents_once() -> None:
    model = tiny_model()
    asked = {"num_inference_steps": 2, "seed": 1, "mode": "causal"}
    made = make_clip(Rushes(model), model.job("a dog", **asked).request)
    assert len(made.latents) == 1
    assert torch.equal(made.latents[0], model.generate("a dog", output="latents", **asked).latents)
    assert (made.frames == model.generate("a dog", **asked).frames).all()


def test_a_fresh_process_becomes_ready(place: Place, ours: Rushes, request_: GenerateRequest) -> None:
    found = cold_start("rushes", place, shortest(request_, ours.model.boundary))
    assert min(found.import_s, found.load_s, found.first_run_s) > 0
    assert found.cold_start_s == pytest.approx(found.import_s + found.load_s + found.first_run_s)
    assert found.peak_host_bytes > 100e6
    assert found.peak_device_bytes is None


def test_a_fresh_process_that_fails_says_why(place: Place, request_: GenerateRequest) -> None:
    command = [sys.executable, "-c", "import sys; print('noise', file=sys.stderr); sys.exit('no such disk')"]
    with pytest.raises(EngineError, match=r"^rushes: the fresh process failed: no such disk$"):
        cold_start("rushes", place, request_, command=command)
