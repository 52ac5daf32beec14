"""Model: generate, stream, what they take and what they free."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from rushes.errors import InvalidRequest, UnknownName
from rushes.models.text import PromptEmbeds
from rushes.stages.base import Job
from rushes.types import Done, ForwardCounts, Frames, Preview
from tiny_parts import TRANSFORMER, TinyParts, embeds, tiny_model

NO_GUIDANCE = {"guidance_high": 1.0}


class CountingVAE(nn.Module):
    """The decoder of another VAE, counting its calls."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae
        self.config = vae.config
        self.takes_batches = vae.takes_batches
        self.num_calls = 0

    def decode_step(self, latent, state=None):
        self.num_calls += 1
        return self.vae.decode_step(latent, state)


def live_jobs():
    return [weakref.ref(found) for found in gc.get_objects() if type(found) is Job]


def test_a_clip_has_the_size_asked_for_and_names_its_request():
    video = tiny_model().generate("a dog", seed=3, width=24, num_frames=7, fps=5)
    assert video.frames.shape == (7, 8, 24, 3)
    assert video.frames.dtype == np.uint8
    assert video.fps == 5
    assert (video.request.prompt, video.request.sampling.seed) == ("a dog", 3)
    assert [(timing.stage, timing.units) for timing in video.timings] == [
        ("text_encode", 1),
        ("denoise", 3),
        ("vae_decode", 4),
    ]
    assert all(timing.seconds > 0 for timing in video.timings)


def test_same_seed_same_bytes_other_seed_other_clip():
    model = tiny_model()
    first, again, other = (model.generate("a dog", seed=seed).frames for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


def test_streamed_frames_are_the_generated_clip_in_order():
    model = tiny_model()
    events = list(model.stream("a dog", seed=1, preview_every=1))
    frames = [event for event in events if isinstance(event, Frames)]
    assert [event.start for event in frames] == [0, 1, 3]
    assert np.array_equal(
        np.concatenate([event.frames for event in frames]), model.generate("a dog", seed=1).frames
    )
    assert [type(event) for event in events[:4]] == [Preview, Preview, Preview, Frames]
    assert isinstance(events[-1], Done)
    assert [timing.stage for timing in events[-1].timings] == ["text_encode", "denoise", "vae_decode"]


def test_the_first_frames_come_when_the_decoder_was_called_once():
    vae = CountingVAE(TinyParts().vae())
    model = tiny_model(TinyParts(vae=vae))
    stream = model.stream("a dog")
    assert isinstance(next(stream), Frames)
    assert vae.num_calls == 1


def test_a_stream_makes_no_preview_unless_asked():
    kinds = {type(event) for event in tiny_model().stream("a dog")}
    assert kinds == {Frames, Done}


def test_an_empty_text_may_stand_beside_embeddings():
    given = {"prompt_embeds": embeds("a dog").states, "negative_prompt_embeds": embeds("dull").states}
    job = tiny_model().job("", negative_prompt="", **given)
    assert (job.request.prompt, job.request.negative_prompt) == ("", "")


def test_previews_come_every_so_many_steps_at_latent_size():
    events = list(tiny_model().stream("a dog", num_inference_steps=5, preview_every=2))
    previews = [event for event in events if isinstance(event, Preview)]
    assert [(event.step, event.num_steps) for event in previews] == [(2, 5), (4, 5)]
    assert previews[0].frames.shape == (3, 4, 8, 3)


@pytest.mark.parametrize("kind", [Preview, Frames])
def test_closing_a_stream_midway_frees_its_job(kind):
    stream = tiny_model().stream("a dog", num_inference_steps=4, preview_every=1)
    while not isinstance(next(stream), kind):
        pass
    (job,) = live_jobs()
    held = weakref.ref(job().denoise.latents if kind is Preview else job().decode.past[0])
    stream.close()
    # Freed by reference counts alone: gc.collect() is not called.
    assert job() is None
    assert held() is None


def test_a_stream_that_was_never_started_holds_nothing_after_close():
    stream = tiny_model().stream("a dog")
    (job,) = live_jobs()
    stream.close()
    del stream
    assert job() is None


def test_progress_counts_every_unit_of_every_stage():
    seen = []
    tiny_model().generate(
        "a dog", on_progress=lambda progress: seen.append((progress.stage, progress.units, progress.total))
    )
    assert seen == [
        ("text_encode", 1, 1),
        *[("denoise", step, 3) for step in (1, 2, 3)],
        *[("vae_decode", latent, 3) for latent in (1, 2, 3)],
    ]


def test_latents_are_float32_and_decode_to_the_clip():
    vae = CountingVAE(TinyParts().vae())
    model = tiny_model(TinyParts(vae=vae))
    latents = model.generate("a dog", seed=1, output="latents").latents
    assert (latents.dtype, tuple(latents.shape)) == (torch.float32, (1, 4, 3, 4, 8))
    assert vae.num_calls == 0
    with torch.no_grad():
        decoded = vae.vae.decode(latents)[0].permute(1, 2, 3, 0).numpy()
    frames = model.generate("a dog", seed=1).frames
    assert np.abs(frames - (decoded + 1) * 127.5).max() <= 0.5 + 1e-3


def test_given_embeddings_replace_the_prompt_and_need_no_encoder():
    parts = TinyParts()
    model = tiny_model(parts)
    by_text = model.generate("a dog", seed=1).frames
    asked = list(parts.encoder.prompts)
    by_embeds = model.generate(
        seed=1, prompt_embeds=embeds("a dog").states, negative_prompt_embeds=embeds("blurry")
    ).frames
    assert np.array_equal(by_text, by_embeds)
    assert parts.encoder.prompts == asked


def test_an_empty_prompt_needs_embeddings():
    with pytest.raises(InvalidRequest, match="prompt"):
        tiny_model().generate("", **NO_GUIDANCE)


def test_the_text_encoder_is_asked_for_the_negative_prompt_only_under_guidance():
    parts = TinyParts()
    tiny_model(parts).generate(prompt_embeds=embeds("a dog").states, **NO_GUIDANCE)
    assert parts.encoder.prompts == []


WRONG = [
    ({"latents": torch.zeros(1, 4, 3, 4, 9)}, "latents", r"\(1, 4, 3, 4, 9\).*\(1, 4, 3, 4, 8\)"),
    ({"latents": torch.zeros(1, 4, 3, 4, 8, dtype=torch.int64)}, "latents", "int64"),
    ({"prompt_embeds": torch.zeros(1, 6, 9)}, "prompt_embeds", r"\(1, 6, 9\).*\(1, L, 8\)"),
    ({"prompt_embeds": torch.zeros(2, 6, 8)}, "prompt_embeds", r"\(2, 6, 8\)"),
    ({"prompt_embeds": torch.zeros(1, 0, 8)}, "prompt_embeds", "L >= 1"),
    ({"prompt_embeds": torch.zeros(6, 8)}, "prompt_embeds", r"\(6, 8\)"),
    ({"prompt_embeds": [1.0]}, "prompt_embeds", "list"),
    ({"negative_prompt_embeds": torch.zeros(1, 6, 7)}, "negative_prompt_embeds", "8"),
    (
        {"prompt_embeds": PromptEmbeds(states=torch.zeros(1, 6, 8), pooled=torch.zeros(1, 5))},
        "prompt_embeds",
        "reads no pooled",
    ),
    (
        {"prompt": "a cat", "prompt_embeds": torch.zeros(1, 6, 8)},
        "prompt_embeds",
        "either prompt or prompt_embeds",
    ),
    (
        {"negative_prompt": "dull", "negative_prompt_embeds": torch.zeros(1, 6, 8)},
        "negative_prompt_embeds",
        "either negative_prompt or",
    ),
    ({"mode": "casual"}, "mode", "did you mean 'causal'"),
    ({"preview_every": -1}, "preview_every", "at least 0"),
    ({"num_frame": 5}, "num_frame", "num_frames"),
]


@pytest.mark.parametrize(("fields", "field", "message"), WRONG)
def test_a_wrong_value_is_named_with_its_rule_before_anything_runs(fields, field, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        tiny_model().stream(**{"prompt": "" if "prompt_embeds" in fields else "a dog", **fields})
    assert message in str(caught.value) or caught.value.field == field


def test_an_unknown_output_suggests_the_nearest():
    with pytest.raises(UnknownName, match="latents"):
        tiny_model().generate("a dog", output="latent")


def test_causal_frames_leave_while_later_latents_are_still_noise():
    parts = TinyParts()
    forwards = []
    parts.transformers["high"].register_forward_hook(lambda *_: forwards.append(1))
    stream = tiny_model(parts).stream("a dog", mode="causal", seed=1, **NO_GUIDANCE)
    counts = [len(forwards) for event in stream if isinstance(event, Frames)]
    # Three steps a latent frame; its keys and values are written after it has left, and the last one's never.
    assert counts == [3, 7, 11]


def test_a_causal_stream_closed_midway_frees_its_cache():
    stream = tiny_model().stream("a dog", mode="causal")
    next(stream)
    (job,) = live_jobs()
    stream.close()
    assert job() is None


def test_causal_mode_is_refused_by_name_where_it_was_not_trained():
    with pytest.raises(InvalidRequest, match="toy was not trained to generate causally"):
        tiny_model(supports_causal=False).generate("a dog", mode="causal")
    with pytest.raises(InvalidRequest, match="mode: the causal mode needs one expert"):
        tiny_model(TinyParts(boundary=0.5)).generate("a dog", mode="causal")


def test_a_request_that_was_recorded_makes_the_clip_again():
    model = tiny_model()
    fields = {"seed": 2, "num_inference_steps": 2}
    for mode in ("full", "causal"):
        video = model.generate("a dog", mode=mode, **fields)
        assert video.request.mode == mode
        again = model.generate(video.request.prompt, mode=video.request.mode, **fields)
        assert np.array_equal(again.frames, video.frames)
    assert model.generate("a dog", mode=None, **fields).request.mode == "full"


def test_one_expert_reads_guidance_high_and_two_read_both():
    one = tiny_model()
    strong, weak = (one.generate("a dog", seed=1, guidance_high=scale).frames for scale in (4.0, 1.0))
    assert not np.array_equal(strong, weak)
    two = tiny_model(TinyParts(boundary=0.7), boundary=0.7)
    low, high = (
        two.generate("a dog", seed=1, num_inference_steps=5, guidance_high=2.0, guidance_low=scale).frames
        for scale in (1.0, 4.0)
    )
    assert not np.array_equal(low, high)


def test_a_clip_tells_which_forwards_it_took():
    model, steps = tiny_model(), {"seed": 1, "num_inference_steps": 10}
    plain, gated = (model.generate("a dog", **steps, guidance_gate=gate) for gate in (1.0, 0.5))
    assert plain.forwards == ForwardCounts(conditional=10, unconditional=10)
    assert gated.forwards == ForwardCounts(conditional=10, unconditional=5)
    cached = model.generate("a dog", **steps, step_cache=100.0, output="latents")
    assert cached.forwards == ForwardCounts(conditional=4, unconditional=4)
    (*_, done) = model.stream("a dog", **steps, step_cache=100.0, **NO_GUIDANCE)
    assert done.forwards == ForwardCounts(conditional=4, unconditional=0)


def test_a_prompt_that_comes_again_is_not_encoded_again():
    parts = TinyParts()
    model = tiny_model(parts)
    first, again = (model.generate("a dog", seed=1) for _ in range(2))
    assert parts.encoder.prompts == ["blurry", "a dog"]
    assert np.array_equal(first.frames, again.frames)
    assert (model.pipeline.embeddings.hits, model.pipeline.embeddings.misses) == (2, 2)


def test_a_pooled_model_asks_for_the_pooled_vector():
    parts = TinyParts()
    parts.transformer_config = type(TRANSFORMER)(
        **{name: getattr(TRANSFORMER, name) for name in TRANSFORMER.__slots__ if name != "pooled_dim"},
        pooled_dim=5,
    )
    with pytest.raises(InvalidRequest, match="pooled vector of width 5"):
        tiny_model(parts).generate(prompt_embeds=torch.zeros(1, 6, 8))
