"""Each second is what its definition says: in a time that only the contender moves."""

from __future__ import annotations

import io
from dataclasses import asdict, replace

import av
import pytest
from bench_parts import FakeClock, FakeContender, clip_of, make_request

from rushes.errors import EngineError
from rushes.profiling.bench.alone import run_alone
from rushes.profiling.bench.client import Client, first_frame
from rushes.profiling.bench.measure import measure, shortest
from rushes.profiling.bench.pairs import run_pairs
from rushes.stages.video_encode import VideoWriter


def test_the_seconds_of_a_clip() -> None:
    clock = FakeClock(now=100.0)
    found = measure(FakeContender("ours", clock), make_request(), preview_every=2, clock=clock)
    assert found.first_preview_s == 2.0
    assert found.first_frame_s == 3.5
    assert found.end_to_end_s == 4.0
    assert found.stages_s == {"denoise": 3.0, "vae_decode": 1.0, "video_encode": 0.0}
    assert found.other_s == 0.0
    assert measure(FakeContender("ours", clock), make_request(), clock=clock).first_preview_s is None


def test_the_clients_decoding_delays_its_frame_and_is_no_stages_work() -> None:
    clock = FakeClock()

    def slowly(data: bytes) -> object | None:
        clock.wait(0.25)
        return first_frame(data)

    found = measure(FakeContender("ours", clock), make_request(), clock=clock, client=Client(clock, slowly))
    # It tries once in vain, with the header alone.
    assert found.first_frame_s == 3.5 + 2 * 0.25
    assert found.stages_s == {"denoise": 3.0, "vae_decode": 1.0, "video_encode": 0.0}
    assert found.other_s == found.end_to_end_s - 4.0 == 2 * 0.25


def test_a_client_decodes_the_first_frame_from_the_first_fragment() -> None:
    """Not from the header before it, and not only when all has come."""
    request, pieces = make_request(), []

    class Sink:
        def write(self, data: bytes) -> None:
            pieces.append(data)

    clip = clip_of(request)
    with VideoWriter(Sink(), format="mp4", **asdict(request.video)) as writer:
        writer.write(clip[:1])
        writer.write(clip[1:])
    clock = FakeClock()
    client = Client(clock)
    for piece in pieces:
        client.write(piece)
        clock.wait(1.0)
    assert first_frame(pieces[0]) is None
    assert first_frame(b"".join(pieces[:2])).shape == (16, 32, 3)
    assert (client.first_frame_at, client.last_byte_at) == (1.0, len(pieces) - 1)
    client.check(num_frames=5)
    with pytest.raises(EngineError, match="has 5 frames, 9 were asked for"):
        client.check(num_frames=9)


def test_bytes_that_do_not_play() -> None:
    client = Client()
    client.write(b"no video at all")
    assert client.first_frame_at is None
    with pytest.raises(EngineError, match="cannot be played"):
        client.check(num_frames=1)


def test_a_file_cut_short_has_too_few_frames() -> None:
    request = make_request()
    file = io.BytesIO()
    with VideoWriter(file, format="mp4", **asdict(request.video)) as writer:
        for frame in clip_of(request):
            writer.write(frame[None])
    client = Client()
    client.write(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(EngineError):
        client.check(num_frames=5)
    assert av.open(io.BytesIO(file.getvalue())).streams.video[0].width == 32


def test_pairs_are_made_in_turn_with_a_fresh_prompt_each() -> None:
    order: list[str] = []
    ours, theirs = (FakeContender(name, on_start=order.append) for name in ("rushes", "rival"))
    requests = [make_request(f"dog {number}", seed=number) for number in range(3)]
    found = run_pairs([ours, theirs], requests, make_request("warm up"))
    assert order == ["rushes", "rival"] * 4
    assert ours.asked == theirs.asked == ["warm up", "dog 0", "dog 1", "dog 2"]
    assert (found.prompts, found.seeds) == (("dog 0", "dog 1", "dog 2"), (0, 1, 2))
    assert set(found.ratios) == {"rival"}
    pairs = found.ratios["rival"]["end_to_end_s"].pairs
    seconds = [[clip.end_to_end_s for clip in found.seconds[name]] for name in ("rushes", "rival")]
    assert pairs == pytest.approx([their / our for our, their in zip(*seconds, strict=True)])
    assert found.stage_ratios["rival"]["denoise"].mean == pytest.approx(1.0)


def test_alone_the_first_clip_does_not_count() -> None:
    ours = FakeContender("rushes")
    found = run_alone(ours, [make_request("a"), make_request("b")], make_request("warm up"), preview_every=1)
    assert ours.asked == ["warm up", "a", "b"]
    assert found.prompts == ("a", "b")
    assert set(found.seconds) == {"first_preview_s", "first_frame_s", "end_to_end_s", "other_s"}
    without = run_alone(ours, [make_request("a")], make_request("warm up"))
    assert "first_preview_s" not in without.seconds


@pytest.mark.parametrize(("boundary", "expected"), [(None, 1), (0.875, 3)])
def test_the_shortest_clip_runs_every_network(boundary: float | None, expected: int) -> None:
    """At shift 3 the second of two steps is at 750: below 0.875; with shift 12 it takes more steps."""
    request = make_request(steps=40)
    request = replace(request, sampling=replace(request.sampling, flow_shift=12.0))
    assert shortest(request, boundary).sampling.num_inference_steps == expected
    fixed = replace(request, sampling=replace(request.sampling, timesteps=(1000.0, 500.0)))
    assert shortest(fixed, boundary) == fixed
