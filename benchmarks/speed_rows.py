"""The rows of the speed table, each a part of a report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from benchmarks.card_watch import card_watch
from benchmarks.gpu_report import Report, free_memory, synchronize
from benchmarks.random_wan import TINY, TRUE, random_wan
from benchmarks.small_kernels import error
from benchmarks.speed_fleet import Fleet, Kind
from benchmarks.speed_rungs import LADDER, Rung, changed, num_bytes, vae_rungs
from benchmarks.speed_timing import Entry, add_all, first_calls, in_turn, ratios
from torch import Tensor

from rushes.engine.local import LocalEngine
from rushes.models.wan import TextContext, Wan, cast_weights
from rushes.models.wan_vae import WanVAE, to_uint8
from rushes.profiling.bench.client import Client
from rushes.stages.vae_decode import to_numpy
from rushes.stages.video_encode import VideoWriter
from rushes.types import Frames, GenerateRequest, JobOptions

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
PROMPT = "a dog is running in the park"
RIVAL = "diffusers"
RUNGS = tuple(name for name, _, _ in LADDER)
LASTING = ("exact", "fast", "turbo")
BRIEF_ROUNDS = 3
"""Of rungs that only explain the others."""

COUNTS: Mapping[str, tuple[int, int]] = dict.fromkeys(("fp8-linears", "fast", "turbo"), (24, 14))
"""Forwards of a clip of 40 steps, where steps reuse earlier ones; conditional and unconditional. The others
run 40 and 40. Random weights have no content to skip by, so the counts are fixed."""

MIDDLE = (20, 40, 500.0)
"""The step that stands for all of a long clip."""

DENSE = {"fast": 9, "turbo": 2}
"""Forwards of a clip of 40 steps in which these rungs compute as `fp8-linears` does: those of fp8-attention's
first four steps and last one, and of the sparse pass' first."""

Given = tuple[Tensor, Tensor, Tensor]


def given(kind: Kind, shape: tuple[int, ...], text_len: int, device: torch.device) -> Given:
    """Latents, timestep and text states of bfloat16 numbers."""
    generator = torch.Generator(device).manual_seed(7)
    sizes = ((1, *shape), (1, text_len, kind.transformer.text_dim))
    latents, text = (
        torch.empty(size, dtype=BF16, device=device).normal_(generator=generator).float() for size in sizes
    )
    return latents, torch.tensor([900.0], device=device), text


def our_call(
    network: Wan,
    inputs: Given,
    context: TextContext | None = None,
    at: tuple[int, int, float] = MIDDLE,
) -> Callable[[], Tensor]:
    """A forward as a step makes it: the prompt's keys and values exist.

    Args:
        at: step, number of steps and timestep, by which some passes go.
    """
    latents, timestep, text = inputs
    made = context or network.encode_text(text)
    phase = network.phase(*at)
    return lambda: network(latents, timestep, made, phase=phase)


def warmed(
    fleet: Fleet, name: str, shape: tuple[int, ...], call: Callable[[], object]
) -> Callable[[], object]:
    """The call; the first time after the rung's own `warm_up`, as a model's first clip is."""
    waits = [True]

    def first() -> object:
        if waits:
            fleet.warm_up(name, shape)
            waits.clear()
        return call()

    return first


def their_call(fleet: Fleet, inputs: Given) -> Callable[[], Tensor]:
    """The same of diffusers, with inputs cast as its pipeline casts them."""
    latents, timestep, text = inputs
    x, states = latents.to(BF16), text.to(BF16)
    return lambda: fleet.twin(x, timestep, states, return_dict=False)[0]


@torch.no_grad()
def precision(report: Report, kind: Kind, device: torch.device, *, is_tiny: bool) -> tuple[Wan, Tensor]:
    """One forward at the short shape in float32, float16 and bfloat16. Returns the network, which is bfloat16
    then, and the float32 output."""
    network = random_wan(kind.transformer, 1, device, F32)
    inputs = given(kind, kind.short, (TINY if is_tiny else TRUE).text_len, device)
    report.add("latents", list(kind.short))
    reference: Tensor | None = None
    for dtype in (F32, F16, BF16):
        cast_weights(network, dtype)
        free_memory()
        entry = Entry(call=our_call(network, inputs), weights=num_bytes(network))
        entries = {str(dtype).removeprefix("torch."): entry}
        first_calls(entries, device)
        in_turn(report, entries, device, rounds=3)
        out = our_call(network, inputs)()
        reference = out if reference is None else reference
        overflows = int((~torch.isfinite(out)).sum())
        entry.about = {"not finite": overflows, "error": error(out, reference)[0] if not overflows else None}
        add_all(report, entries)
    assert reference is not None
    return network, reference


@torch.no_grad()
def errors(report: Report, fleet: Fleet, reference: Tensor) -> None:
    """Every rung against float32 at the short shape, beside diffusers' bfloat16."""
    inputs = given(fleet.kind, fleet.kind.short, fleet.text_len, fleet.device)
    theirs = error(their_call(fleet, inputs)(), reference)[0]
    report.add(RIVAL, {"error": theirs})
    for name in fleet.distinct(RUNGS):

        def measure(name: str = name) -> None:
            network, _, rung = fleet.rung(name)
            fleet.warm_up(name, fleet.kind.short)
            mine = error(our_call(network, inputs)(), reference)[0]
            report.add(name, {"error": mine, "over diffusers": round(mine / theirs, 3), **rung.about()})

        report.attempt(name, measure)


@torch.no_grad()
def steps_40(report: Report, fleet: Fleet, clip: str, *, rounds: int, warm_s: float) -> None:
    """Denoising in 40 steps with guidance: the median forward times the forwards of a clip."""
    inputs = given(fleet.kind, fleet.kind.latents(clip), fleet.text_len, fleet.device)
    weights = num_bytes(fleet.base)
    entries = {RIVAL: Entry(call=their_call(fleet, inputs), weights=weights)}
    for name in fleet.distinct(RUNGS):
        network, _, rung = fleet.rung(name)
        rounds_of = None if name in LASTING else BRIEF_ROUNDS
        call = warmed(fleet, name, fleet.kind.latents(clip), our_call(network, inputs))
        entries[name] = Entry(call=call, weights=num_bytes(network), about=rung.about(), rounds=rounds_of)
    first_calls(entries, fleet.device)
    with card_watch(fleet.device) as card:
        in_turn(report, entries, fleet.device, rounds=rounds, warm_s=warm_s)
    report.add("extrapolated", f"median of one network's forwards, times the counts; latents {clip}")
    for name, entry in entries.items():
        counts = COUNTS.get(name, (40, 40))
        figures = entry.figures()
        if entry.seconds:
            forward_s, dense = statistics.median(entry.seconds), DENSE.get(name, 0)
            like = entries.get("fp8-linears", entry).seconds or entry.seconds
            seconds = (sum(counts) - dense) * forward_s + dense * statistics.median(like)
            figures |= {"seconds": round(seconds, 3), "forward_s": round(forward_s, 5)}
            figures |= {"forwards": list(counts), "of them without float8 attention": dense}
        report.add(name, figures)
    add_end(report, entries, card)


def clips(report: Report, fleet: Fleet, clip: str, *, rounds: int) -> None:
    """Prompt to the last byte of a playable mp4 in a few steps: real clips, in turn."""
    request = few_steps(fleet, clip)
    weights = num_bytes(fleet.base) + num_bytes(fleet.base_vae) + num_bytes(fleet.encoder.model)
    entries = {RIVAL: Entry(call=lambda: their_clip(fleet, request), weights=weights)}
    seen: dict[str, dict[str, Any]] = {}
    for name in fleet.distinct(LASTING):
        network, vae, rung = fleet.rung(name)
        own = num_bytes(network) + num_bytes(vae) + num_bytes(fleet.encoder.model)
        seen[name] = rung.about()
        call = clip_call(fleet, name, request, seen[name])
        entries[name] = Entry(call=call, weights=own, about=seen[name])
    warm_up_clips(report, fleet, entries, request)
    with card_watch(fleet.device) as card:
        in_turn(report, entries, fleet.device, rounds=rounds)
    add_all(report, entries)
    add_end(report, entries, card)


def few_steps(fleet: Fleet, clip: str) -> GenerateRequest:
    """The request of the kind's few-step preset."""
    size = asdict(fleet.kind.clips[clip])
    return fleet.model("plain").job(PROMPT, preset=fleet.kind.preset, seed=7, **size).request


def one_step(fleet: Fleet, request: GenerateRequest) -> GenerateRequest:
    """The same clip, denoised in one step without guidance."""
    sampling = {"num_inference_steps": 1, "solver": "euler", "guidance_high": 1.0}
    if fleet.kind.has_two:
        sampling["guidance_low"] = 1.0
    return fleet.model("exact").job(PROMPT, seed=7, **sampling, **asdict(request.video)).request


def warm_up_clips(
    report: Report, fleet: Fleet, entries: Mapping[str, Entry], request: GenerateRequest
) -> None:
    """Compile and warm by the steps and two decoded latents of each contender; of diffusers by one step. The
    engine's streams, which all rungs share, have their memory from a clip of one step."""
    num_steps = request.sampling.num_inference_steps
    shape = fleet.kind.latents(_clip_of(fleet, request))
    inputs = given(fleet.kind, shape, fleet.text_len, fleet.device)
    starts = {RIVAL: Entry(call=lambda: _their_short_clip(fleet, inputs), weights=0)}
    for name in entries:
        if name != RIVAL:
            network, vae, _ = fleet.rung(name)
            call = warmed(fleet, name, shape, _short_clip(network, vae, inputs, num_steps))
            starts[name] = Entry(call=call, weights=0)
    first_calls(starts, fleet.device)
    clip_call(fleet, "exact", one_step(fleet, request), {})()
    for name, start in starts.items():
        entries[name].first_s, entries[name].failure = start.first_s, start.failure


def _their_short_clip(fleet: Fleet, inputs: Given) -> None:
    """The prompt, one forward and two decoded latents; all that the pipeline needs is loaded then."""
    fleet.their_pipe.encode_prompt(
        PROMPT, do_classifier_free_guidance=False, max_sequence_length=fleet.text_len
    )
    velocity = their_call(fleet, inputs)()
    fleet.their_vae.decode(velocity[:, :, :2].to(BF16), return_dict=False)


def _clip_of(fleet: Fleet, request: GenerateRequest) -> str:
    return next(name for name, video in fleet.kind.clips.items() if video == request.video)


def _short_clip(network: Wan, vae: WanVAE, inputs: Given, num_steps: int) -> Callable[[], object]:
    """Every step, as each may run other code, and two latents."""

    def call() -> None:
        for step in range(num_steps):
            velocity = our_call(network, inputs, at=(step, num_steps, 500.0))()
        _, state = vae.decode_step(velocity[:, :, :1])
        vae.decode_step(velocity[:, :, :1], state)

    return call


def clip_call(fleet: Fleet, name: str, request: GenerateRequest, seen: dict[str, Any]) -> Callable[[], float]:
    """One clip through the engine, its file going to a client in this process; returns the seconds to the
    last byte, and tells `seen` the rest."""

    def call() -> float:
        model = fleet.model(name)  # anew, so that the prompt is encoded in every clip
        client, video = Client(), request.video
        size = {"width": video.width, "height": video.height, "fps": video.fps}
        with LocalEngine(model, reserve_bytes=0) as engine:
            begin = time.perf_counter()
            with VideoWriter(client, format="mp4", num_frames=video.num_frames, **size) as writer:

                def write(frames: Frames) -> None:
                    writer.write(frames.frames)

                job_id = engine.submit(request, JobOptions(lane="interactive"), on_frames=write)
                last = list(engine.events(job_id))[-1]
        client.check(video.num_frames)
        assert last.kind == "completed", f"the clip ended {last.kind}: {last.data}"
        assert client.last_byte_at is not None
        assert client.first_frame_at is not None
        timings: Any = last.data["timings"]
        seen["stages_s"] = {each["stage"]: round(each["seconds"], 4) for each in timings}
        seen["first_frame_s"] = round(client.first_frame_at - begin, 4)
        return client.last_byte_at - begin

    return call


def their_clip(fleet: Fleet, request: GenerateRequest) -> float:
    """The same by WanPipeline; its frames go through the same writer."""
    video, client = request.video, Client()
    begin = time.perf_counter()
    frames = fleet.their_pipe(
        prompt=request.prompt,
        height=video.height,
        width=video.width,
        num_frames=video.num_frames,
        num_inference_steps=request.sampling.num_inference_steps,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        max_sequence_length=fleet.text_len,
        output_type="np",
    ).frames[0]
    pixels = (np.asarray(frames) * 255).round().astype(np.uint8)
    size = {"width": video.width, "height": video.height, "fps": video.fps}
    with VideoWriter(client, format="mp4", num_frames=len(pixels), **size) as writer:
        for start in range(0, len(pixels), 4):
            writer.write(pixels[start : start + 4])
    assert client.last_byte_at is not None
    return client.last_byte_at - begin


@torch.no_grad()
def decoding(report: Report, fleet: Fleet, clip: str, *, rounds: int, without: tuple[str, ...]) -> None:
    """A whole clip's decode: diffusers, ours plain, and with each pass of the VAE alone."""
    latents = given(fleet.kind, fleet.kind.latents(clip), 1, fleet.device)[0]
    theirs = latents.to(BF16)
    weights = num_bytes(fleet.base_vae)
    entries = {RIVAL: Entry(call=lambda: fleet.their_vae.decode(theirs, return_dict=False), weights=weights)}
    for rung in [Rung(name="plain", passes=()), *vae_rungs(fleet.device, without)]:
        vae, done = changed("vae", fleet.base_vae, rung)
        if rung.name != "plain" and not done.passes:
            entries[rung.name] = Entry(call=lambda: None, weights=0, failure="; ".join(done.lacks))
            continue
        entries[rung.name] = Entry(call=_decode(vae, latents), weights=num_bytes(vae), about=done.about())
    first_calls({name: entry for name, entry in entries.items() if entry.failure is None}, fleet.device)
    with card_watch(fleet.device) as card:
        in_turn(report, entries, fleet.device, rounds=rounds)
    add_all(report, entries)
    add_end(report, entries, card, ours=tuple(entries)[1:])


def _decode(vae: WanVAE, latents: Tensor) -> Callable[[], object]:
    """Latent by latent into uint8 on the device, as the stage does, without the copy to the host."""

    def call() -> None:
        state = None
        for latent in latents.split(1, dim=2):
            frames, state = vae.decode_step(latent, state)
            to_uint8(frames)

    return call


@torch.no_grad()
def decoding_batched(report: Report, fleet: Fleet, clip: str, *, rounds: int) -> None:
    """Batch 1, 2 and 4 of a few latent frames in one step, on the exact rung; published: 3.2x."""
    shape = fleet.kind.latents(clip)
    few = (shape[0], min(4, shape[1]), *shape[2:])
    one = given(fleet.kind, few, 1, fleet.device)[0]
    _, vae, rung = fleet.rung("exact")
    entries = {
        f"batch {size}": Entry(
            call=_decode(vae, one.expand(size, -1, -1, -1, -1).contiguous()),
            weights=num_bytes(vae),
            about=rung.about(),
        )
        for size in (1, 2, 4)
    }
    first_calls(entries, fleet.device)
    in_turn(report, entries, fleet.device, rounds=rounds)
    add_all(report, entries)
    single = entries["batch 1"].seconds
    for size in (2, 4):
        batch = entries[f"batch {size}"].seconds
        if single and batch:
            gain = size * statistics.median(single) / statistics.median(batch)
            report.add(f"batch {size}, clips a second over batch 1", round(gain, 3))


@torch.no_grad()
def first_frame(report: Report, fleet: Fleet, clip: str, *, rounds: int) -> None:
    """After the last step: one latent decoded, copied, encoded, at the client as a frame that it can show.
    diffusers' user waits for the whole decode, its conversion and the first frame of the file."""
    latents = given(fleet.kind, fleet.kind.latents(clip), 1, fleet.device)[0]
    _, vae, rung = fleet.rung("exact")
    theirs = latents.to(BF16)

    def ours() -> float:
        return _to_client(fleet, clip, lambda: to_numpy(vae.decode_step(latents[:, :, :1])[0]))

    def rival() -> float:
        def frames() -> Any:
            video = fleet.their_vae.decode(theirs, return_dict=False)[0]
            return to_numpy(video[:, :, :1].clamp(-1, 1))

        return _to_client(fleet, clip, frames)

    entries = {
        RIVAL: Entry(call=rival, weights=num_bytes(fleet.base_vae)),
        "exact": Entry(call=ours, weights=num_bytes(vae), about=rung.about()),
    }
    first_calls(entries, fleet.device)
    in_turn(report, entries, fleet.device, rounds=rounds)
    add_all(report, entries)
    add_end(report, entries, {})


def _to_client(fleet: Fleet, clip: str, frames: Callable[[], Any]) -> float:
    """Seconds until the client has decoded the first frame; its file breaks off there."""
    video, client = fleet.kind.clips[clip], Client()
    synchronize(fleet.device)
    size = {"width": video.width, "height": video.height, "fps": video.fps}
    with VideoWriter(client, format="mp4", **size) as writer:
        begin = time.perf_counter()
        writer.write(frames())
        assert client.first_frame_at is not None, "the first fragment is a whole picture"
    return client.first_frame_at - begin


def add_end(
    report: Report, entries: Mapping[str, Entry], card: Mapping[str, Any], ours: tuple[str, ...] = LASTING
) -> None:
    """What closes a row: ratios to the rival, clocks and power."""
    report.add("diffusers / ours", ratios(entries, RIVAL, ours))
    if card:
        report.add("card", dict(card))
