"""Whose unit is next: lanes, tenants, deadlines, batches; and what the policy costs each job in time."""

import pytest
from scheduler_world import DECODE, DENOISE, TEXT, World, alone, clip, key, shared

from rushes.engine.scheduler import Policy

LONG = clip(num_steps=40, step_s=6.0, num_latents=20, decode_s=0.1)
SHORT = clip(num_steps=4, step_s=3.0)


def seconds_of(units):
    return sum(seconds for _, seconds in units)


def test_a_single_job_runs_unit_by_unit():
    world = World()
    world.arrive("job", SHORT)
    world.run()
    assert [stage for _, _, stage in world.log] == [unit[0].stage for unit in SHORT]
    assert world.ended == {"job": pytest.approx(seconds_of(SHORT))}
    assert len(world.scheduler) == 0
    assert world.step() is None


def test_a_tenants_jobs_go_one_after_another_where_batches_do_not_help():
    world = World()
    for name in ("first", "second", "third"):
        world.arrive(name, SHORT)
    world.run()
    assert list(dict.fromkeys(world.picked("denoise"))) == ["first", "second", "third"]
    assert world.picked() == sorted(world.picked(), key=["first", "second", "third"].index)
    assert world.ended["second"] == pytest.approx(2 * seconds_of(SHORT))


def test_an_interactive_job_takes_over_at_the_next_unit_and_the_other_goes_on_afterwards():
    world = World()
    world.arrive("batch", LONG)
    world.run(until=20.0)
    world.arrive("interactive", SHORT, lane="interactive", tenant="b")
    arrived_at, done_before = world.now, len(world.log)
    world.run()
    after = world.picked()[done_before:]
    assert after[: len(SHORT)] == ["interactive"] * len(SHORT)
    assert world.ended["interactive"] == pytest.approx(arrived_at + seconds_of(SHORT))
    assert len(world.picked()) == len(LONG) + len(SHORT)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_the_batch_lane_keeps_its_share_through_a_flood(share):
    world = World(policy=Policy(batch_lane_share=share))
    world.arrive("batch", 2 * LONG)
    for number in range(150):
        world.arrive(f"i{number}", SHORT, lane="interactive", tenant="b")
    world.run(until=1000.0)
    used = world.served["batch", "a"]
    assert used == pytest.approx(share * world.now, abs=2 * 6.0)


def test_what_the_batch_lane_may_claim_is_not_saved_up_while_it_runs_alone():
    world = World()
    world.arrive("batch", LONG)
    for number in range(4):
        world.arrive(f"i{number}", SHORT, lane="interactive", tenant="b")
    world.run(until=50.0)  # credit of about 5 s
    world.run(until=120.0)
    world.arrive("late", SHORT, lane="interactive", tenant="b")
    begin = len(world.log)
    for _ in SHORT:
        world.step()
    assert set(world.picked()[begin:]) == {"late"}


def test_tenants_take_turns_of_about_a_job():
    world = World()
    for number in range(20):
        world.arrive(f"a{number}", SHORT, tenant="a")
    for number in range(2):
        world.arrive(f"b{number}", SHORT, tenant="b")
    world.run(until=4.2 * seconds_of(SHORT))
    assert {"b0", "b1"} < world.ended.keys()
    assert world.ended["b1"] < 4.2 * seconds_of(SHORT)


def test_a_tenant_of_long_units_gets_no_more_than_one_of_short_units():
    world = World()
    for number in range(10):
        world.arrive(f"a{number}", [(DENOISE, 10.0)] * 20, tenant="a")
        world.arrive(f"b{number}", [(DENOISE, 1.0)] * 200, tenant="b")
    world.run(until=2000.0)
    quantum_s = 200.0
    assert abs(world.served["batch", "a"] - world.served["batch", "b"]) <= quantum_s + 10.0


def test_a_newcomer_takes_part_in_the_round_that_runs():
    world = World()
    for tenant in "abcd":
        for number in range(3):
            world.arrive(f"{tenant}{number}", SHORT, tenant=tenant)
    world.run(until=3.5 * seconds_of(SHORT))
    world.arrive("new", SHORT, tenant="e")
    world.run()
    assert world.ended["new"] <= (3.5 + 1.0 + 2.0) * seconds_of(SHORT)


def test_a_debt_is_remembered_while_its_tenant_is_away_but_is_bounded():
    world = World()
    world.arrive("a", [(DENOISE, 100.0)], tenant="a")
    for number in range(60):
        world.arrive(f"b{number}", [(DENOISE, 1.0)] * 10, tenant="b")
    world.run(until=101.0)
    world.arrive("again", [(DENOISE, 10.0)], tenant="a")
    world.run()
    begin_s = next(start for start, names, _ in world.log if names == ("again",))
    assert 150.0 < begin_s < 330.0


def test_a_finished_clip_is_decoded_before_anybody_goes_on_denoising():
    world = World()
    world.arrive("first", clip(num_steps=2, step_s=6.0, num_latents=21, decode_s=0.09))
    for tenant in "abcd":
        world.arrive(f"other-{tenant}", LONG, tenant=tenant)
    world.run(until=150.0)
    denoised_at = max(
        start for start, names, stage in world.log if names == ("first",) and stage == "denoise"
    )
    assert world.ended["first"] <= denoised_at + 6.0 + 21 * 0.09 + 1e-6


def test_decoding_that_takes_longer_than_all_steps_is_not_held_up():
    """As 5B at 3 steps."""
    world = World()
    heavy = clip(num_steps=3, step_s=1.0, num_latents=31, decode_s=0.2)
    for number in range(30):
        world.arrive(f"j{number}", heavy, tenant="abc"[number % 3])
    world.run()
    for number in range(30):
        mine = [(start, stage) for start, names, stage in world.log if names == (f"j{number}",)]
        denoised_at = max(start for start, stage in mine if stage == "denoise") + 1.0
        assert world.ended[f"j{number}"] - denoised_at <= 2 * 31 * 0.2 + 2 * 1.0


def test_a_newcomer_catches_up_and_shares_the_batch_where_that_helps():
    world = World(batch_seconds=shared)
    toy = clip(num_steps=20, step_s=0.3, num_latents=9, decode_s=0.02)
    world.arrive("old", toy)
    world.run(until=2.0)
    world.arrive("new", toy)
    arrived_at = world.now
    world.run()
    together = [start for start, names, _ in world.log if set(names) == {"old", "new"}]
    assert min(together) <= arrived_at + 0.3 + 0.05 + 1e-6
    assert len(together) >= 10
    assert world.ended["old"] <= seconds_of(toy) + 0.05 + 13 * 0.3 * 0.3 + 1e-6


def test_a_newcomer_waits_where_batches_do_not_help():
    world = World(batch_seconds=alone)
    world.arrive("old", LONG)
    world.run(until=20.0)
    world.arrive("new", LONG)
    world.run(until=200.0)
    assert set(world.picked()) == {"old"}


START = key("vae_decode", is_start=True)


def to_decode(num_latents=9, decode_s=0.02):
    return [(START, decode_s / 4), *[(DECODE, decode_s)] * (num_latents - 1)]


def decoding(batch_seconds):
    """A clip that is three latent frames ahead of three others, all of them to be decoded."""
    world = World(batch_seconds=batch_seconds)
    world.arrive("old", to_decode())
    for _ in range(3):
        world.step(("vae_decode",))
    for name in "abc":
        world.arrive(name, to_decode())
    world.run()
    return world


def test_clips_without_a_past_are_let_past_where_they_then_share_the_batch():
    log = [names for _, names, _ in decoding(shared).log]
    assert set(log[3]) == {"a", "b", "c"}, "their first frames"
    assert all(set(names) == {"old", "a", "b", "c"} for names in log[4:10])
    assert len(log) == 3 + 1 + 8


def test_clips_without_a_past_wait_where_batches_do_not_help():
    world = decoding(alone)
    assert world.picked()[:9] == ["old"] * 9


def test_clips_without_a_past_wait_where_the_batch_is_full():
    def two_at_most(key, unit_s, num_jobs):
        return shared(key, unit_s, num_jobs) if num_jobs <= 2 else alone(key, unit_s, num_jobs)

    world = World(batch_seconds=two_at_most)
    for name in ("one", "two"):
        world.arrive(name, to_decode())
    for _ in range(3):
        world.step(("vae_decode",))
    world.arrive("late", to_decode())
    world.run()
    assert all(set(names) == {"one", "two"} for _, names, _ in world.log[:9])


def test_a_batch_knows_whether_others_want_its_stage():
    world = World(batch_seconds=alone)
    world.arrive("one", to_decode())
    batch, _ = world.begin(("vae_decode",))
    assert not world.scheduler.waits_beside(batch)
    world.arrive("steps", [(DENOISE, 1.0)])
    assert not world.scheduler.waits_beside(batch)
    world.arrive("two", to_decode())
    assert world.scheduler.waits_beside(batch)


def test_eight_equal_jobs_run_as_one_batch():
    world = World(batch_seconds=shared)
    for number in range(10):
        world.arrive(f"j{number}", clip(num_steps=20, step_s=0.3), tenant="ab"[number % 2])
    world.run(until=3.0)
    sizes = [len(names) for _, names, stage in world.log if stage == "denoise"]
    assert max(sizes) == 8
    assert sizes[-1] == 8


def test_batches_are_shared_by_tenants_as_they_are_owed():
    world = World(policy=Policy(max_batch=2), batch_seconds=shared)
    for number in range(6):
        world.arrive(f"a{number}", [(DENOISE, 1.0)] * 100, tenant="a")
    world.arrive("b0", [(DENOISE, 1.0)] * 100, tenant="b")
    world.run(until=60.0)
    with_b = sum("b0" in names for _, names, _ in world.log)
    assert with_b >= 0.9 * len(world.log)


def test_the_composition_is_fixed_with_batches_of_one():
    world = World(policy=Policy(max_batch=1), batch_seconds=shared)
    for number in range(4):
        world.arrive(f"j{number}", SHORT)
    world.run()
    assert {len(names) for _, names, _ in world.log} == {1}


def test_jobs_with_a_key_of_their_own_run_alone():
    world = World(batch_seconds=shared)
    for number in range(3):
        world.arrive(f"j{number}", [(key(alone=number), 1.0)] * 3)
    world.run()
    assert {len(names) for _, names, _ in world.log} == {1}


def test_a_batch_job_joins_an_interactive_one_only_if_that_hardly_lengthens_it():
    def nearly_free(key, unit_s, num_jobs):
        return unit_s * (1 + 0.05 * (num_jobs - 1))

    for batch_seconds, size in ((nearly_free, 3), (shared, 1)):
        world = World(batch_seconds=batch_seconds)
        for number in range(4):
            world.arrive(f"b{number}", [(DENOISE, 1.0)] * 9)
        world.arrive("i", [(DENOISE, 1.0)], lane="interactive")
        batch, _ = world.begin()
        assert batch.job_ids[0] == "i"
        assert len(batch.job_ids) == size


def test_interactive_jobs_share_a_batch():
    world = World(batch_seconds=shared)
    for number in range(3):
        world.arrive(f"i{number}", [(DENOISE, 1.0)], lane="interactive", tenant=f"t{number}")
    batch, seconds = world.begin()
    assert len(batch.job_ids) == 3
    assert batch.predicted_s == pytest.approx(seconds)


def test_a_deadline_in_danger_goes_first_and_a_hopeless_one_does_not():
    world = World()
    world.arrive("old", LONG)
    world.arrive("hopeless", SHORT, deadline_at=0.5 * seconds_of(SHORT), tenant="a")
    world.arrive("soon", SHORT, deadline_at=4.2 * seconds_of(SHORT), tenant="a")
    world.arrive("sooner", SHORT, deadline_at=2.05 * seconds_of(SHORT), tenant="a")
    world.run()
    assert world.ended["sooner"] <= 2.05 * seconds_of(SHORT)
    assert world.ended["soon"] <= 4.2 * seconds_of(SHORT)
    assert world.picked()[0] == "sooner"
    assert world.ended["hopeless"] > world.ended["old"]


def test_a_far_deadline_changes_nothing():
    world = World()
    world.arrive("old", LONG)
    world.arrive("relaxed", SHORT, deadline_at=10_000.0)
    world.run()
    assert world.ended["relaxed"] == pytest.approx(seconds_of(LONG) + seconds_of(SHORT))


def test_deadlines_cannot_take_more_than_the_turns_leave():
    world = World()
    world.arrive("patient", LONG, tenant="a")
    for number in range(40):
        world.arrive(f"d{number}", SHORT, tenant="b", deadline_at=12.4 * (number + 1))
    world.run(until=400.0)
    # Half the lane is b's own turn, and of the rest the deadlines are let past for a half.
    assert world.served["batch", "a"] >= 0.25 * world.now - 12.0


def test_only_stages_of_the_caller_are_picked_and_they_run_side_by_side():
    world = World()
    world.arrive("one", [(DECODE, 0.1)] * 2)
    world.arrive("two", SHORT[1:])
    world.arrive("three", SHORT)
    decode, _ = world.begin(("vae_decode",))
    denoise, _ = world.begin(("denoise",))
    text, _ = world.begin(("text_encode",))
    assert [batch.job_ids for batch in (decode, denoise, text)] == [("one",), ("two",), ("three",)]
    assert world.begin() is None
    assert world.scheduler.backlog(0.0).unit_s == 3.0


def test_a_job_may_leave_while_it_runs_and_come_back():
    world = World()
    world.arrive("job", SHORT)
    batch, seconds = world.begin()
    world.scheduler.remove("job")
    assert "job" not in world.scheduler
    world.arrive("job", SHORT)
    assert world.begin() is None, "its old batch still runs"
    world.scheduler.done(batch, seconds)
    again, _ = world.begin()
    assert again.job_ids == ("job",)


def test_older_jobs_come_first_whenever_they_are_added():
    world = World()
    world.arrive("new", SHORT, at=100.0)
    world.arrive("resumed", SHORT, at=5.0)
    world.run()
    assert world.ended["resumed"] < world.ended["new"]


def test_the_backlog_is_told_by_lane_and_tenant():
    world = World()
    world.arrive("one", SHORT, tenant="a")
    world.arrive("two", SHORT, tenant="a", lane="interactive")
    world.arrive("three", LONG, tenant="b")
    backlog = world.scheduler.backlog(7.0)
    assert backlog.at == 7.0
    assert backlog.of_tenant("batch", "a") == pytest.approx(seconds_of(SHORT))
    assert backlog.of_lane("batch") == pytest.approx(seconds_of(SHORT) + seconds_of(LONG))
    assert world.scheduler.backlog_s("interactive") == pytest.approx(seconds_of(SHORT))
    assert backlog.of_tenant("batch", "nobody") == 0.0


def test_the_same_calls_give_the_same_answers():
    def log():
        world = World(batch_seconds=shared)
        for number in range(30):
            world.arrive(
                f"j{number}",
                SHORT if number % 3 else LONG,
                tenant="abc"[number % 3],
                lane="batch" if number % 4 else "interactive",
            )
        return world.run().log

    assert log() == log()


def test_text_that_is_encoded_already_leaves_nothing_to_catch_up():
    world = World(batch_seconds=shared)
    world.arrive("one", [(TEXT, 0.1)])
    world.arrive("two", [(TEXT, 0.1)])
    world.run()
    assert len(world.ended) == 2
