"""How edits are sampled: few-step weights where a model has them, the clip's own settings elsewhere."""

from __future__ import annotations

import pytest

from rushes.errors import UnknownName
from rushes.pipelines.rules import RULES, load_rules, resolve
from rushes.sampling.levels import schedule_of
from rushes.server.edit_ways import OWN, STRENGTH, Way, cost_of, lora_of, sampling_of, source_of, way_of
from rushes.types import LatentSource

TOY, A14B = load_rules("toy"), load_rules("wan2.2-t2v-a14b")
FRESH = resolve(TOY, "a dog", seed=3)


def test_the_toy_edits_by_its_few_step_weights_and_others_by_the_clips_own_settings() -> None:
    few = way_of(TOY, None, None, has_lora=True)
    assert few == Way(preset="few-step-4", strength=TOY.edit_strength)
    assert way_of(TOY, None, 0.7, has_lora=True) == Way(preset="few-step-4", strength=0.7)
    for rules, preset, has_lora in ((TOY, None, False), (TOY, OWN, True), (A14B, None, True)):
        assert way_of(rules, preset, None, has_lora=has_lora) == Way(preset=None, strength=STRENGTH)
    assert [name for name in RULES.names() if lora_of(load_rules(name))] == ["toy"]
    with pytest.raises(UnknownName, match="few-step-4"):
        way_of(TOY, "few-steps-4", None, has_lora=True)


@pytest.mark.parametrize(
    ("strength", "sigmas", "step"),
    [
        (0.96, (1.0, 0.96, 0.9, 0.75, 0.5), 1),
        (0.9, (1.0, 0.9, 0.75, 0.5), 1),
        (0.7499, (1.0, 0.9, 0.75, 0.5), 2),
        (0.6, (1.0, 0.9, 0.75, 0.6, 0.5), 3),
        (0.0, (1.0, 0.9, 0.75, 0.5), 3),
    ],
)
def test_the_level_is_put_into_the_presets_schedule(
    strength: float, sigmas: tuple[float, ...], step: int
) -> None:
    way = Way(preset="few-step-4", strength=strength)
    sampling = sampling_of(TOY, way, FRESH)
    assert schedule_of(sampling).sigmas == pytest.approx((*sigmas, 0.0))
    assert (sampling.num_inference_steps, sampling.lora, sampling.seed) == (len(sigmas), lora_of(TOY), 3)
    assert source_of(TOY, way, sampling, "x", mask=None) == LatentSource(
        name="x", sigma=0.0, step=step, is_renoised=True
    )


def test_at_full_strength_only_a_mask_has_something_to_take_up() -> None:
    way = Way(preset="few-step-4", strength=1.0)
    sampling = sampling_of(TOY, way, FRESH)
    assert source_of(TOY, way, sampling, "x", mask=None) is None
    masked = source_of(TOY, way, sampling, "x", mask="m")
    assert masked is not None
    assert (masked.step, masked.mask) == (0, "m")


@pytest.mark.parametrize("strength", [0.2, 0.875, 0.95])
def test_with_two_experts_the_first_has_its_part(strength: float) -> None:
    fresh = resolve(A14B, "a dog", seed=3)
    way = Way(preset="distilled-4", strength=strength)
    sampling = sampling_of(A14B, way, fresh)
    source = source_of(A14B, way, sampling, "x", mask=None)
    assert source is not None
    assert A14B.boundary is not None
    assert schedule_of(sampling).sigmas[source.step] == pytest.approx(max(strength, A14B.boundary))


def test_guidance_costs_a_forward_more() -> None:
    assert cost_of(FRESH.sampling, 20) == 40
    assert cost_of(sampling_of(TOY, Way(preset="few-step-4", strength=0.96), FRESH), 4) == 4
