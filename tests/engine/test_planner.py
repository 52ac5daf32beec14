"""What a planner knows of a model's weights, and when the text encoder has to leave the device."""

from pathlib import Path

import pytest
import torch

import rushes
from rushes.engine.memory import DeviceMemory, weights_bytes
from rushes.engine.planner import leaving_encoder, planner_for, shape_of
from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.expert_pair import ResidentExperts
from rushes.models.text import UMT5TextEncoder
from rushes.passes.fp8 import Fp8Linears
from rushes.passes.plan import Plan
from rushes.pipelines.model import Model
from rushes.pipelines.parts import CheckpointParts
from rushes.pipelines.rules import load_rules, resolve

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("planner") / "tiny")


def model_on(device: str, folder: Path, *, streams_text: bool = False) -> Model:
    """Its weights are on the CPU whatever the model says of its device."""
    rules = load_rules("wan2.2-t2v-a14b")
    parts = CheckpointParts(open_checkpoint(folder), CPU, torch.float32, streams_text=streams_text)
    return Model(rules, parts, boundary=rules.boundary, device=torch.device(device))


def test_weights_that_share_memory_or_stay_on_the_host_are_not_counted(folder: Path) -> None:
    plain, streamed = (shape_of(model_on("cpu", folder, streams_text=kind)) for kind in (False, True))
    text = sum(p.nbytes for p in encoder_of(model_on("cpu", folder)).model.parameters())
    assert (plain.is_swapped, plain.is_text_streamed) == (False, False)
    assert (streamed.is_swapped, streamed.is_text_streamed) == (False, True)
    assert weights_bytes(plain) - weights_bytes(streamed) == text
    model = model_on("cpu", folder)
    network = model.parts.experts().select(1000.0)
    assert ResidentExperts(network, network, boundary=0.875).num_resident == 1
    assert model.parts.experts().num_resident == 2


def test_weights_count_as_they_lie_in_memory(folder: Path) -> None:
    """Or a device whose peaks stay below the prediction would be taken for roomier than it is."""
    sizes = []
    for plan in (Plan(), Plan(passes=(Fp8Linears(),))):
        model = rushes.load(str(folder), device="cpu", dtype="float32", plan=plan)
        pair, vae = model.parts.experts(), model.parts.vae()
        networks = (pair.select(1000.0), pair.select(0.0), vae, encoder_of(model).model)
        held = sum(p.nbytes for network in networks for p in network.parameters())
        assert weights_bytes(shape_of(model)) == held
        sizes.append(shape_of(model).weight_bytes)
    assert sizes[0] == 4.0
    assert 1.0 < sizes[1] < 4.0


def test_the_text_encoder_leaves_a_gpu_on_which_the_models_own_clip_has_no_room(folder: Path) -> None:
    model = model_on("cuda", folder)
    shapes = {model.rules.name: shape_of(model)}
    clip = resolve(model.rules, "x", seed=0)
    memory = DeviceMemory(shapes, 0, reserve_bytes=0)
    memory.budget_bytes = memory.needed_bytes([clip])
    assert leaving_encoder(model, memory) is None
    memory.budget_bytes -= 1
    assert leaving_encoder(model, memory) is model.parts.text_encoder()
    # The CPU uses the host's memory itself, and nobody leaves twice.
    assert leaving_encoder(model_on("cpu", folder), memory) is None
    assert leaving_encoder(model_on("cuda", folder, streams_text=True), memory) is None


def test_on_a_cpu_and_by_a_step_for_one_clip_none_are_decoded_together(folder: Path) -> None:
    model = rushes.load(folder)
    assert not shape_of(model).decodes_batches
    vae = model.parts.vae()
    assert vae.takes_batches
    vae.step = lambda vae, latent, state: vae.plain_step(latent, state)
    assert not vae.takes_batches


def test_a_model_on_the_cpu_keeps_its_parts_and_its_notes(folder: Path) -> None:
    model = rushes.load(folder, device="cpu")
    planner = planner_for(model, reserve_bytes=10**15)
    assert not planner.memory.fits(resolve(model.rules, "x", seed=0))
    assert not encoder_of(model).is_streamed
    assert not any("host memory" in note for note in model.notes)


def encoder_of(model: Model) -> UMT5TextEncoder:
    encoder = model.parts.text_encoder()
    assert isinstance(encoder, UMT5TextEncoder)
    return encoder
