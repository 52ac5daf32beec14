"""Latents of like requests: found by meaning, within one tenant and model, and never in a request's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.service_processes import wait_for
from hand_worker import HandWorker
from prometheus_client import CollectorRegistry, generate_latest

from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError, IdempotencyConflict, TooManyJobs
from rushes.server.audits import AUDIT_TENANT
from rushes.server.auth import LOCAL, Caller, caller_of
from rushes.server.edits import edit_of
from rushes.server.gateway import Gateway
from rushes.server.reuse import reuse_of
from rushes.server.reuse_setup import bounds_of
from rushes.server.run import opened_service
from rushes.server.settings import ServerSettings
from rushes.server.snapshots import snapshots_on_the_way
from rushes.server.wishes import Wish
from rushes.stores.api_keys import KeyLimits
from rushes.stores.base import JobRecord

RED = "a red ball rolls over fresh snow"
LIKE = "A red ball rolling over fresh snow"
LEFT, RIGHT = "a dog walks from left to right", "a dog walks from right to left"
FIELDS: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 20}
STEPS = (2, 6, 10)


class Bench:
    """A gateway without its edges, and a worker that is the test."""

    def __init__(self, place: Workplace, gateway: Gateway) -> None:
        self.place, self.gateway = place, gateway
        self.worker = HandWorker(place=place)
        self.worker.announce()

    def ask(
        self, prompt: str, *, caller: Caller = LOCAL, level: Any = "on", has_seed: bool = False, **fields: Any
    ) -> JobRecord:
        body = {"prompt": prompt, "model": "toy", "seed": 1, **FIELDS, **fields}
        request, options = self.gateway.ask(body, tenant=caller.tenant)
        return self.gateway.create(request, options, caller, Wish(level=level, has_seed=has_seed))

    def cache(self, prompt: str, **more: Any) -> dict[str, Any]:
        """Of a request that is taken back at once."""
        record = self.ask(prompt, **more)
        self.place.jobs.cancel(record.id)
        found: dict[str, Any] = self.gateway.video(record)["cache"]
        return found

    def made(self, prompt: str, **more: Any) -> JobRecord:
        """A clip whose snapshots are in the index."""
        self.ask(prompt, **more)
        record = self.worker.complete(STEPS)
        self.until_indexed(record.id)
        return record

    def until_indexed(self, job_id: str, *, is_in: bool = True) -> None:
        assert self.gateway.reuse.latents is not None
        deadline = time.monotonic() + 20
        while self.gateway.reuse.latents.cache.has(job_id) != is_in:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Bench]:
    asked = ServerSettings(store=folder, has_auth=False, latent_reuse="on", **settings)
    with Workplace(folder) as place, opened_service(place, asked) as service:
        service.gateway.feed.start()
        try:
            yield Bench(place, service.gateway)
        finally:
            service.gateway.feed.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path) as found:
        yield found


def test_a_like_prompt_goes_on_from_stored_latents(bench: Bench) -> None:
    source = bench.made(RED)
    record = bench.ask(LIKE, seed=5)
    cache = bench.gateway.video(record)["cache"]
    assert (cache["kind"], cache["source"]) == ("latent", source.id)
    assert record.request.source is not None
    assert not record.request.source.is_renoised
    assert cache["steps_saved"] == record.request.source.step in STEPS
    assert cache["seconds_saved"] == pytest.approx(4.0 * cache["steps_saved"] / 20)
    assert cache["similarity"] >= 0.92
    assert record.request.prompt == LIKE
    assert bench.place.jobs.asked(record.id).source is None


def test_who_names_a_seed_goes_on_where_it_still_makes_a_difference(bench: Bench, tmp_path: Path) -> None:
    bench.made(RED)
    named, unnamed = bench.cache(LIKE, seed=5, has_seed=True), bench.cache(LIKE, seed=6)
    assert (named["kind"], named["steps_saved"]) == ("latent", min(STEPS))
    assert named["sigma"] > 0.96 > unnamed["sigma"]
    with opened(tmp_path / "other", reuse_seed_sigma=0.0) as alike:
        alike.made(RED)
        assert alike.cache(LIKE, seed=5, has_seed=True)["sigma"] == unnamed["sigma"]


def test_finished_latents_take_room_and_go_with_their_snapshots(tmp_path: Path) -> None:
    with opened(tmp_path, reuse_gb=5e-8) as bench:  # 50 bytes: one clip's four files of 7, and not two
        first = bench.made(RED)
        second = bench.made(LEFT)
        bench.until_indexed(first.id, is_in=False)
        wait_for(lambda: len(bench.place.latents.names()) == len(STEPS) + 1)
        assert all(name.startswith(second.id) for name in bench.place.latents.names())


def test_words_that_the_model_takes_as_equal_are_one(bench: Bench) -> None:
    source = bench.made("We see a red puppy moving from left to right on the beach")
    cache = bench.cache("On a sandy beach, a red dog goes right")
    assert (cache["kind"], cache["source"]) == ("latent", source.id)
    assert bench.cache("On a sandy beach, a red dog goes left")["kind"] == "miss"


def test_latents_of_another_list_are_not_found(tmp_path: Path) -> None:
    file, store = tmp_path / "equal.toml", tmp_path / "store"
    file.write_text('equal = [["ball", "sphere"]]')
    like = "A red sphere rolling over fresh snow"
    with opened(store, reuse_synonyms=file) as bench:
        source = bench.made(RED)
        assert bench.cache(like)["source"] == source.id
        assert bench.cache("a red puppy")["reason"] == "similarity"  # the model's own list is not used
    file.write_text('equal = [["ball", "sphere", "orb"]]')
    with opened(store, reuse_synonyms=file) as bench:
        assert bench.cache(like)["reason"] == "empty"
    file.write_text('models = ["wan2.2-ti2v-5b"]')
    with opened(store, reuse_synonyms=file) as bench:
        assert bench.cache(like)["reason"] == "empty"
    file.write_text('equal = [["ball"]]')
    with (
        pytest.raises(ConfigError, match="a group is two phrases or more"),
        opened(store, reuse_synonyms=file),
    ):
        pass


def test_a_seed_that_was_given_is_kept_by_noise(bench: Bench) -> None:
    bench.made(RED)
    record = bench.ask(LIKE, seed=5, has_seed=True)
    assert record.request.source is not None
    assert record.request.source.is_renoised
    assert record.request.sampling.seed == 5


def test_another_meaning_is_refused_however_near(bench: Bench) -> None:
    bench.made(LEFT)
    cache = bench.cache(RIGHT)
    assert (cache["kind"], cache["reason"]) == ("miss", "guard: order")
    assert cache["source"] is None


@pytest.mark.parametrize("fields", [{"width": 96}, {"flow_shift": 4.0}, {"guidance_high": 9.0}])
def test_latents_of_another_kind_of_clip_are_not_found(bench: Bench, fields: dict[str, Any]) -> None:
    bench.made(RED)
    assert bench.cache(LIKE, **fields)["reason"] == "empty"


def test_another_tenant_finds_nothing(bench: Bench) -> None:
    bench.made(RED)
    stranger = replace(LOCAL, tenant="other", key_id="k")
    assert bench.cache(LIKE, caller=stranger)["reason"] == "empty"
    assert bench.cache(RED, caller=stranger)["reason"] == "empty"
    assert bench.cache(RED)["kind"] == "exact"


@pytest.mark.parametrize("level", ["off", "exact"])
def test_who_wants_no_latents_gets_none(bench: Bench, level: str) -> None:
    bench.made(RED)
    assert bench.cache(LIKE, level=level)["kind"] == ("off" if level == "off" else "miss")


def test_a_key_without_cache_gets_and_gives_nothing(bench: Bench) -> None:
    own = replace(LOCAL, is_cache_allowed=False)
    bench.ask(RED, caller=own)
    record = bench.worker.complete(STEPS)
    time.sleep(0.5)
    assert bench.gateway.reuse.latents is not None
    assert not bench.gateway.reuse.latents.cache.has(record.id)
    assert bench.cache(RED)["kind"] == "miss"
    assert bench.cache(RED, caller=own)["kind"] == "off"


def test_a_repeated_hit_is_exact_and_says_what_it_is(bench: Bench) -> None:
    bench.made(RED)
    bench.ask(LIKE, seed=5)
    first = bench.worker.complete()
    again = bench.gateway.video(bench.ask(LIKE, seed=5))["cache"]
    assert (again["kind"], again["source"]) == ("exact", first.id)
    assert again["sigma"] == bench.gateway.video(first)["cache"]["sigma"]
    strict = bench.cache(LIKE, seed=5, level="exact")
    assert strict["kind"] == "miss", "what was made of another's latents is no exact clip"


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_snapshot_that_is_no_more_is_a_miss(bench: Bench, damage: str) -> None:
    source = bench.made(RED)
    for name in bench.place.latents.names():
        if damage == "gone":
            bench.place.latents.delete(name)
        else:
            bench.place.latents.path(name).write_bytes(b"lat")
    cache = bench.cache(LIKE)
    assert (cache["kind"], cache["reason"]) == ("miss", "missing")
    bench.until_indexed(source.id, is_in=False)


def test_an_edit_is_found_by_who_edits_it_only(bench: Bench) -> None:
    parent = bench.made(RED)
    other = "a yellow bird flies over the sea"
    bench.gateway.remix(LOCAL, parent.id, edit_of({"prompt": other, "strength": 0.9}, tenant=LOCAL.tenant))
    edited = bench.worker.complete(STEPS)
    bench.made("a cat sleeps on a chair")  # so that the edit's end has been heard
    assert reuse_of(edited)["kind"] == "edit"
    assert bench.cache(other, seed=5)["kind"] == "miss"
    again = bench.gateway.remix(
        LOCAL, edited.id, edit_of({"prompt": RED, "strength": 0.9}, tenant=LOCAL.tenant)
    )
    assert again.request.source is not None
    assert again.request.source.name.startswith(edited.id)


def test_a_clip_made_from_latents_can_be_edited_above_where_they_were_taken_up(bench: Bench) -> None:
    source = bench.made(RED)
    bench.ask(LIKE, seed=5)
    like = bench.worker.complete(STEPS[2:])
    assert reuse_of(like)["kind"] == "latent"
    other = edit_of({"prompt": "a yellow bird flies over the sea", "strength": 0.9}, tenant=LOCAL.tenant)
    edited = bench.gateway.remix(LOCAL, like.id, other)
    assert edited.request.source is not None
    assert edited.request.source.name.startswith(source.id)
    assert edited.request.source.step < STEPS[2]
    bench.worker.complete()
    for name in [name for name in bench.place.latents.names() if name.startswith(source.id)]:
        bench.place.latents.delete(name)
    again = bench.gateway.remix(LOCAL, like.id, replace(other, prompt="a bird"))
    assert (again.request.source, reuse_of(again)["reason"]) == (None, "strength")


def test_steps_of_another_schedule_are_not_mistaken_for_the_clips_own(bench: Bench) -> None:
    """A hit with twice the steps takes its source up at a later step of its own, not of the source's."""
    source = bench.made(RED)
    bench.ask(LIKE, num_inference_steps=40)
    like = bench.worker.complete(())
    taken_up = like.request.source
    assert taken_up is not None
    found = snapshots_on_the_way(bench.place.jobs, like)
    assert [one.name for one in found if not one.name.startswith(source.id)] == []
    assert len(found) < len(STEPS)
    assert all(one.sigma > taken_up.sigma for one in found)


def test_a_worker_that_cannot_use_a_snapshot_makes_it_a_miss(bench: Bench) -> None:
    source = bench.made(RED)
    bench.ask(LIKE, seed=5)
    lease, record = bench.worker.lease()
    bench.place.jobs.miss_source(lease, reason="/some/folder/x: holds NaN or infinity")
    cache = bench.gateway.video(bench.place.jobs.get(record.id))["cache"]
    assert cache == {**dict.fromkeys(cache), "kind": "miss", "reason": "snapshot"}
    assert not {"sigma", "similarity", "steps_saved"} & set(reuse_of(bench.place.jobs.get(record.id)))
    bench.until_indexed(source.id, is_in=False)


def test_workers_of_two_models_share_nothing(bench: Bench) -> None:
    bench.made(RED)
    HandWorker(place=bench.place, identity="model-2", owner="v").announce()
    time.sleep(1.1)  # what is known of workers may be as old
    assert bench.cache(RED)["reason"] == "model"


def test_a_clip_by_another_model_than_was_there_is_nobody_elses(bench: Bench) -> None:
    first, twin = bench.ask(RED), bench.ask(RED)
    assert twin.twin_of == first.id
    HandWorker(place=bench.place, identity="model-2", owner="v").complete()
    freed = bench.place.jobs.get(twin.id)
    assert (freed.status, freed.twin_of) == ("queued", None)
    assert bench.worker.complete().id == twin.id
    assert bench.cache(RED)["source"] == twin.id


def test_a_clip_whose_file_is_gone_is_made_again(bench: Bench) -> None:
    first = bench.made(RED)
    bench.ask(RED, seed=1)  # which takes the same file, and is the later one
    assert first.result is not None
    bench.place.results.delete(first.result)
    assert bench.cache(RED, level="exact")["kind"] == "miss"
    bench.ask(RED, level="exact")
    again = bench.worker.complete()
    assert bench.cache(RED, level="exact")["source"] == again.id


def test_an_idempotency_key_is_for_one_ask(bench: Bench) -> None:
    parent, other = bench.made(RED), bench.made("a yellow bird flies over the sea")

    def remix(job_id: str, **fields: Any) -> str:
        body = {"prompt": LEFT, "seed": 1, "strength": 0.9, **fields}
        ask = edit_of(body, tenant=LOCAL.tenant, idempotency_key="k")
        return bench.gateway.remix(LOCAL, job_id, ask).id

    first_id = remix(parent.id)
    assert remix(parent.id) == first_id
    for job_id, fields in [
        (other.id, {}),
        (parent.id, {"strength": 0.8}),
        (parent.id, {"priority": "batch"}),
        (parent.id, {"deadline_s": 900}),
    ]:
        with pytest.raises(IdempotencyConflict):
            remix(job_id, **fields)
    bench.place.jobs.cancel(first_id)
    request, options = bench.gateway.ask(
        {"prompt": RIGHT, "model": "toy", "seed": 1, **FIELDS}, tenant=LOCAL.tenant, idempotency_key="c"
    )
    first = bench.gateway.create(request, options, LOCAL)
    assert bench.gateway.create(request, options, LOCAL).id == first.id
    with pytest.raises(IdempotencyConflict):
        bench.gateway.create(request, options, LOCAL, Wish(level="off"))


def test_edits_go_by_few_step_weights_only_where_every_worker_has_them(bench: Bench) -> None:
    parent = bench.made(RED)
    HandWorker(place=bench.place, owner="v", loras=("few_step.safetensors",)).announce()
    time.sleep(1.1)  # what is known of workers may be as old

    def remix(**fields: Any) -> JobRecord:
        ask = edit_of({"prompt": LEFT, **fields}, tenant=LOCAL.tenant, idempotency_key="k")
        return bench.gateway.remix(LOCAL, parent.id, ask)

    plain = remix()
    assert (plain.request.sampling.lora, reuse_of(plain)["strength"]) == (None, 0.8)
    bench.place.jobs.cancel(plain.id)
    bench.worker.loras = ("few_step.safetensors",)
    bench.worker.announce()
    time.sleep(1.1)
    assert remix().id == plain.id  # the same call; only the workers are others
    few = bench.gateway.remix(LOCAL, parent.id, edit_of({"prompt": LEFT}, tenant=LOCAL.tenant))
    assert (few.request.sampling.lora, reuse_of(few)["preset"]) == ("few_step.safetensors", "few-step-4")
    assert few.request.source is not None
    assert few.request.source.name == f"{parent.id}.final.safetensors"
    cache = bench.gateway.video(few)["cache"]
    assert (cache["kind"], cache["steps_saved"]) == ("edit", 16)
    assert cache["seconds_saved"] == pytest.approx(4.0 * (1 - 4 / 40), abs=1e-3)
    with pytest.raises(IdempotencyConflict):
        remix(preset="few-step-4")
    bench.place.jobs.cancel(few.id)
    bench.place.latents.delete(f"{parent.id}.final.safetensors")
    without = bench.gateway.remix(LOCAL, parent.id, edit_of({"prompt": RIGHT}, tenant=LOCAL.tenant))
    assert (without.request.source, without.request.sampling) == (None, few.request.sampling)
    assert reuse_of(without)["reason"] == "missing"


def test_a_mask_is_a_part_of_what_is_asked_for(bench: Bench) -> None:
    parent = bench.made(RED)

    def remix(**fields: Any) -> JobRecord:
        body = {"prompt": LEFT, "strength": 0.9, **fields}
        ask = edit_of(body, tenant=LOCAL.tenant, idempotency_key="k")
        return bench.gateway.remix(LOCAL, parent.id, ask)

    first = remix(mask_frames="1-8")
    assert first.request.source is not None
    assert first.request.source.mask in bench.place.latents.names()
    assert remix(mask_frames="1-").id == first.id, "which are the same frames"
    for fields in ({"mask_frames": "5-8"}, {}):
        with pytest.raises(IdempotencyConflict):
            remix(**fields)


def test_deleting_a_clip_takes_it_out(bench: Bench) -> None:
    source = bench.made(RED)
    asyncio.run(bench.gateway.delete("default", source.id))
    assert not bench.place.latents.names(), "its finished latents neither"
    bench.until_indexed(source.id, is_in=False)
    assert bench.cache(LIKE)["kind"] == "miss"


def test_the_index_outlives_the_gateway(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        source = first.made(RED)
    with opened(tmp_path) as second:
        assert second.cache(LIKE)["source"] == source.id


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_nobody_heard_of_is_found_by_its_files(tmp_path: Path, is_lost: bool) -> None:
    with Workplace(tmp_path) as place:
        asked = ServerSettings(store=tmp_path, has_auth=False)
        with opened_service(place, asked) as service:
            away = Bench(place, service.gateway)
            away.ask(RED)
            record = away.worker.complete(STEPS)
    if is_lost:
        for file in tmp_path.glob("reuse.sqlite*"):
            file.unlink()
    with opened(tmp_path) as bench:
        bench.until_indexed(record.id)
        assert bench.cache(LIKE)["source"] == record.id


def test_what_has_no_room_loses_its_files(tmp_path: Path) -> None:
    with opened(tmp_path, reuse_gb=30e-9) as bench:  # 30 bytes: one clip's three snapshots of 7
        first, second = bench.made(RED), bench.made("a yellow bird flies over the sea")
        bench.until_indexed(first.id, is_in=False)
        wait_for(lambda: {name.partition(".")[0] for name in bench.place.latents.names()} == {second.id})


def test_no_tenant_takes_more_than_its_part(tmp_path: Path) -> None:
    assert bounds_of(ServerSettings(store=tmp_path)).tenant_bytes == 5 * 10**9
    with opened(tmp_path, reuse_gb=90e-9, reuse_tenant_gb=30e-9) as bench:
        stranger = replace(LOCAL, tenant="other", key_id="k")
        theirs, first = bench.made(RED, caller=stranger), bench.made(RED)
        bench.made("a yellow bird flies over the sea")
        bench.until_indexed(first.id, is_in=False)
        bench.until_indexed(theirs.id)


def test_a_share_of_hits_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path, audit_share=1.0) as bench:
        bench.made(RED)
        bench.ask(LIKE, seed=5)
        hit = bench.worker.complete()
        wait_for(lambda: bench.place.jobs.count(tenant=AUDIT_TENANT) == 1)
        audit = bench.worker.complete()
        assert audit.request == replace(hit.request, source=None)
        assert (audit.options.lane, audit.options.tenant) == ("batch", AUDIT_TENANT)
        wait_for(lambda: 'rushes_reuse_audits_total{verdict="unknown"} 1.0' in metrics(bench))
        assert bench.gateway.list("default").videos[0]["id"] == hit.id


@pytest.mark.parametrize(("shade", "verdict"), [(200, "same"), (20, "different")])
def test_an_audit_compares_what_the_clips_show(tmp_path: Path, shade: int, verdict: str) -> None:
    with opened(tmp_path, audit_share=1.0) as bench:
        bench.made(RED)
        bench.ask(LIKE, seed=5)
        noise = np.random.default_rng(0).integers(0, 40, (9, 64, 64, 3))
        bench.worker.complete(frames=(180 + noise).astype(np.uint8))
        wait_for(lambda: bench.place.jobs.count(tenant=AUDIT_TENANT) == 1)
        bench.worker.complete(frames=(shade + noise).astype(np.uint8))
        wait_for(lambda: f'rushes_reuse_audits_total{{verdict="{verdict}"}} 1.0' in metrics(bench))


def test_metrics_tell_hits_misses_and_seconds(bench: Bench) -> None:
    bench.made(RED)
    for prompt in (RED, LIKE, "something else entirely"):
        bench.cache(prompt)
    told = metrics(bench)
    for line in (
        'rushes_reuse_requests_total{kind="exact"} 1.0',
        'rushes_reuse_requests_total{kind="latent"} 1.0',
        'rushes_reuse_requests_total{kind="miss"} 2.0',
        'rushes_reuse_misses_total{reason="similarity"} 1.0',
        'rushes_reuse_saved_seconds_total{kind="exact"} 5.0',
        "rushes_reuse_entries 1.0",
    ):
        assert line in told


def metrics(bench: Bench) -> str:
    registry = CollectorRegistry()
    registry.register(bench.gateway.reuse.metrics)
    return generate_latest(registry).decode()


def test_hits_hold_no_slot_and_cost_nothing(tmp_path: Path) -> None:
    asked = ServerSettings(store=tmp_path, latent_reuse="on")
    with Workplace(tmp_path) as place, opened_service(place, asked) as service:
        assert service.accounts is not None
        key, _ = service.accounts.keys.create("k", limits=KeyLimits(concurrent_jobs=1))
        caller = caller_of(key, now=0.0)
        bench = Bench(place, service.gateway)
        bench.ask(RED, caller=caller)
        with pytest.raises(TooManyJobs):
            bench.ask(RED, caller=caller)  # a twin is an open job too
        assert service.limits is not None
        service.limits.ended(bench.worker.complete())
        for _ in range(3):
            assert bench.ask(RED, caller=caller).status == "completed"
        (day,) = service.accounts.charges.by_day(days=1, now=time.time())
        assert (day.num_jobs, day.actual_s) == (4, 5.0)
