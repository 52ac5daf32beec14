"""Opens spans around stages and networks from outside, where their own code opens none.

What is decorated with `rushes.trace.traced` is left alone. Everything is put back when the block ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from rushes.models import text as text_models
from rushes.models.expert_pair import SwappedExperts
from rushes.models.wan import Wan
from rushes.models.wan_vae import WanVAE
from rushes.pipelines.model import Model
from rushes.stages import denoise, text_encode, vae_decode
from rushes.stages.base import Job, Stage
from rushes.trace import Value, span

Describe = Callable[..., Mapping[str, Value]]
"""Attributes of a call's span, from its arguments."""


def _nothing(*args: Any, **kwargs: Any) -> Mapping[str, Value]:
    return {}


@contextmanager
def wrapped(owner: Any, name: str, span_name: str, describe: Describe = _nothing) -> Iterator[None]:
    """Every call of `owner.name` is a span while the block lasts.

    Args:
        owner: a module, a class or an object.
        describe: called with the arguments of each call.
    """
    original = getattr(owner, name)
    if getattr(original, "traced_as", None) is not None:
        yield
        return

    @functools.wraps(original)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with span(span_name, **describe(*args, **kwargs)):
            return original(*args, **kwargs)

    with replaced(owner, name, inside):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while the block lasts."""
    is_own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def spans_around(model: Model) -> Iterator[None]:
    """Spans (see `rushes.profiling.rows`) for every stage and network of a model. Loads its text encoder."""
    with ExitStack() as stack:
        for wrapper in (*_stage_spans(model), *_network_spans(), *_text_spans(model)):
            stack.enter_context(wrapper)
        yield


def _stage_spans(model: Model) -> Iterator[Any]:
    pipeline = model.pipeline
    # Both modes share stages; each is wrapped once.
    for stage in dict.fromkeys((*pipeline._whole, *pipeline._causal)):
        if getattr(stage.run, "traced_as", None) is None:
            yield replaced(stage, "run", _traced_run(stage))
        yield wrapped(stage, "prepare", "load", partial(_of_stage, stage.name))


def _traced_run(stage: Stage) -> Callable[[Sequence[Job]], None]:
    """`stage.run` as a span that tells what a step has run."""
    run = stage.run

    def inside(jobs: Sequence[Job]) -> None:
        job = jobs[0]
        with span(stage.name, is_first=job.num_decoded == 0) as unit:
            before = job.forwards
            expert = stage.key(job).expert
            run(jobs)
            if expert is not None:
                unit.note(
                    expert=expert,
                    conditional=job.forwards.conditional - before.conditional,
                    unconditional=job.forwards.unconditional - before.unconditional,
                )

    return inside


def _network_spans() -> Iterator[Any]:
    yield wrapped(denoise, "start", "noise")
    yield wrapped(Wan, "forward", "forward", _about_forward)
    yield wrapped(Wan, "encode_text", "text_context")
    yield wrapped(SwappedExperts, "select", "expert_weights")
    yield wrapped(WanVAE, "decode_step", "vae_forward", _about_decode)
    yield wrapped(vae_decode, "to_numpy", "to_host")
    yield wrapped(vae_decode, "to_uint8", "postprocess")


def _text_spans(model: Model) -> Iterator[Any]:
    encoder = model.parts.text_encoder()
    yield wrapped(type(encoder), "encode", "encode_text")
    tokenizer = getattr(encoder, "_tokenizer", None)
    if tokenizer is not None:
        yield wrapped(type(tokenizer), "__call__", "tokenize")
    for module in (text_encode, text_models):
        yield wrapped(module, "clean_prompt", "tokenize")


def _of_stage(stage: str, job: Job) -> Mapping[str, Value]:
    return {"stage": stage}


def _about_forward(*args: Any, write_cache: bool = False, **kwargs: Any) -> Mapping[str, Value]:
    return {"is_cache_write": True} if write_cache else {}


def _about_decode(vae: WanVAE, latent: Any, state: Any = None) -> Mapping[str, Value]:
    return {"is_first": state is None}
