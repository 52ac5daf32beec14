"""Edits over a real service with the embedded model: OpenAI's remix, the chain, and what is said of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image
from running_service import SMALL, Running, serving

import rushes

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

FEW = {**SMALL, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("store"), "--no-auth", "--latent-reuse", "on") as found:
        yield found


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[rushes.Client]:
    with rushes.Client(running.url) as found:
        yield found


@pytest.fixture(scope="module")
def made(client: rushes.Client) -> str:
    return client.create("a red dog runs in a park", seed=4, **FEW).wait().id


def test_remix_of_the_openai_client(running: Running, made: str) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as api:
        queued: Any = api.videos.remix(made, prompt="a red dog runs in snow")
        assert queued.remixed_from_video_id == made
        video: Any = api.videos.poll(queued.id, poll_interval_ms=100)
    assert (video.status, video.prompt) == ("completed", "a red dog runs in snow")
    assert (video.cache["kind"], video.cache["source"]) == ("edit", made)
    assert video.cache["steps_saved"] == 2
    assert video.cache["sigma"] == pytest.approx(0.98)
    assert video.seed == 4


def forwards(clip: rushes.Clip) -> tuple[int, int]:
    (done,) = [event for event in clip.events() if event.kind == "completed"]
    return done.data["forwards"]["conditional"], done.data["forwards"]["unconditional"]


def test_few_step_weights_make_it_without_guidance(client: rushes.Client, made: str) -> None:
    by_default = client.remix(made, "a red dog runs at noon").wait()
    by_name = client.remix(made, "a red dog runs at noon", preset="few-step-4", strength=0.98)
    assert by_name.video["cache"]["source"] == by_default.id, "which is the same edit"
    assert forwards(by_default) == (4, 0)
    assert forwards(client.remix(made, "a red dog runs at noon", strength=0.75).wait()) == (2, 0)
    assert by_default.video["cache"]["seconds_saved"] > 0


def test_by_its_own_settings_fewer_steps_are_run(client: rushes.Client, made: str) -> None:
    clip = client.remix(made, "a red dog runs at night", strength=0.7, preset="own").wait()
    cache = clip.video["cache"]
    assert (cache["kind"], cache["source"]) == ("edit", made)
    assert 0 < cache["steps_saved"] < 6
    assert forwards(clip) == (6 - cache["steps_saved"],) * 2


def test_edits_of_edits_and_the_way_back(client: rushes.Client, made: str) -> None:
    first = client.remix(made, "a red dog runs in the rain").wait()
    second = client.remix(first.id, "a blue dog runs in the rain", seed=9).wait()
    chain = second.history()
    assert [link["id"] for link in chain] == [second.id, first.id, made]
    assert [link["seed"] for link in chain] == [9, 4, 4]
    assert chain[1]["remixed_from_video_id"] == made
    client.delete(first.id)
    assert [link["is_deleted"] for link in second.history()] == [False, True]
    assert client.get(second.id).status == "completed"


def test_the_same_edit_again_is_the_same_clip(client: rushes.Client, made: str) -> None:
    first = client.remix(made, "a red dog sleeps").wait()
    again = client.remix(made, "a red dog sleeps")
    assert (again.status, again.video["cache"]["source"]) == ("completed", first.id)
    assert again.video["remixed_from_video_id"] == made


def test_without_latents_it_is_a_new_clip_that_says_so(running: Running, client: rushes.Client) -> None:
    source = client.create("a cat sits", seed=5, **FEW).wait()
    for file in (running.store / "latents").glob(f"{source.id}.*"):
        file.unlink()
    clip = client.remix(source.id, "a cat jumps").wait()
    assert (clip.video["cache"]["kind"], clip.video["cache"]["reason"]) == ("miss", "missing")
    assert forwards(clip) == (5, 0), "of the edit's settings"
    assert clip.video["remixed_from_video_id"] == source.id


@pytest.mark.parametrize("damage", [b"", b"not a snapshot"])
def test_poisoned_latents_are_a_miss(running: Running, client: rushes.Client, damage: bytes) -> None:
    source = client.create("a bird flies", seed=len(damage), **FEW).wait()
    for file in (running.store / "latents").glob(f"{source.id}.*"):
        size = file.stat().st_size
        file.write_bytes(damage.ljust(size, b"x"))
    clip = client.remix(source.id, "a bird sings").wait()
    assert (clip.video["cache"]["kind"], clip.video["cache"]["reason"]) == ("miss", "snapshot")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x", "strength": 2}, "strength"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "preset": 4}, "preset"),
        ({"prompt": "x", "preset": "few"}, "preset"),
        ({"prompt": "x", "stength": 1}, "stength"),
    ],
)
def test_what_is_no_edit_is_refused_by_name(
    running: Running, made: str, body: dict[str, Any], field: str
) -> None:
    answer = httpx2.post(f"{running.url}/v1/videos/{made}/remix", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def mask_png(columns: slice, shape: tuple[int, int] = (64, 64)) -> bytes:
    pixels = np.zeros(shape, np.uint8)
    pixels[:, columns] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def frames(clip: rushes.Clip, folder: Path) -> NDArray[np.int16]:
    with av.open(clip.save(folder / f"{clip.id}.mp4")) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(np.int16)


def test_outside_of_a_mask_the_clip_stays(client: rushes.Client, made: str, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(mask_png(slice(0, 32)))
    clip = client.remix(made, "a green cat at night", strength=1, mask=tmp_path / "mask.png").wait()
    cache = clip.video["cache"]
    assert (cache["kind"], cache["source"], cache["steps_saved"]) == ("edit", made, 2)
    change = np.abs(frames(clip, tmp_path) - frames(client.get(made), tmp_path)).mean(axis=(0, 1, 3))
    # The decoder sees a few latents, of 8 pixels each, to both sides.
    assert change[48:].mean() < 4 < 10 < change[:24].mean()
    again = client.remix(made, "a green cat at night", strength=1, mask=mask_png(slice(0, 32)))
    assert again.video["cache"]["source"] == clip.id, "the same words and the same mask"


def test_a_mask_comes_as_a_file_too(running: Running, client: rushes.Client, made: str) -> None:
    answer = httpx2.post(
        f"{running.url}/v1/videos/{made}/remix",
        data={"prompt": "a red dog jumps", "mask_frames": "1-4"},
        files={"mask": ("mask.png", mask_png(slice(32, 64), (256, 256)), "image/png")},
    )
    assert answer.status_code == 200, answer.text
    clip = client.get(answer.json()["id"]).wait()
    assert (clip.video["cache"]["kind"], clip.video["cache"]["source"]) == ("edit", made)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mask": "aGVsbG8="}, "mask"),
        ({"mask": 7}, "mask"),
        ({"mask": base64.b64encode(mask_png(slice(0, 9), (64, 32))).decode()}, "mask"),
        ({"mask_frames": "4"}, "mask_frames"),
        ({"mask_frames": "0-99"}, "mask_frames"),
    ],
)
def test_what_is_no_mask_is_refused(running: Running, made: str, body: dict[str, Any], field: str) -> None:
    answer = httpx2.post(f"{running.url}/v1/videos/{made}/remix", json={"prompt": "x", **body})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_without_its_finished_latents_a_clip_cannot_stay(running: Running, client: rushes.Client) -> None:
    source = client.create("a horse stands", seed=7, **FEW).wait()
    (running.store / "latents" / f"{source.id}.final.safetensors").unlink()
    body = {"prompt": "a horse lies", "mask_frames": "1-"}
    answer = httpx2.post(f"{running.url}/v1/videos/{source.id}/remix", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "latents_gone")


def test_only_a_finished_clip_can_be_edited(running: Running, client: rushes.Client) -> None:
    clip = client.create("a slow clip", seed=6, **{**FEW, "num_inference_steps": 40})
    answer = httpx2.post(f"{running.url}/v1/videos/{clip.id}/remix", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_ready")
    clip.cancel()
    assert httpx2.post(f"{running.url}/v1/videos/{'0' * 32}/remix", json={"prompt": "x"}).status_code == 404


def test_the_command(running: Running, made: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    clip = tmp_path / "snow.mp4"
    command = [sys.executable, "-m", "rushes", "edit", made, "now in snow"]
    (tmp_path / "mask.png").write_bytes(mask_png(slice(0, 32)))
    for where in (
        ["--url", running.url],
        ["--store", str(running.store), "--preset", "own", "--strength", "0.8"],
        ["--url", running.url, "--mask", str(tmp_path / "mask.png")],
        ["--store", str(running.store), "--mask", str(tmp_path / "mask.png"), "--mask-frames", "1-"],
    ):
        ended = subprocess.run([*command, *where, "-o", str(clip)], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == str(clip)
        assert clip.stat().st_size > 1000
        assert "edit" in ended.stderr or "exact" in ended.stderr
        clip.unlink()
