"""The unmodified `openai` client against a real `rushes serve` with the embedded model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
from openai.types import Video
from running_service import SMALL, Running, serving

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

SIZE: Any = "64x64"
SECONDS: Any = "0.3"
FEW: dict[str, Any] = {"num_inference_steps": 2}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("store"), "--no-auth") as found:
        yield found


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def made(client: openai.OpenAI) -> Video:
    """A finished video, asked for as the client does by itself: a form."""
    return client.videos.create_and_poll(
        prompt="a dog", size=SIZE, seconds=SECONDS, model="toy", poll_interval_ms=100
    )


def test_create_and_poll(made: Video) -> None:
    assert (made.status, made.progress, made.object) == ("completed", 100, "video")
    assert (made.prompt, made.size, made.seconds, made.model) == ("a dog", "64x64", "0.3125", "toy")
    assert made.error is None
    assert made.completed_at is not None
    assert made.expires_at is not None
    assert made.created_at <= made.completed_at < made.expires_at


def test_create_as_json_and_with_our_fields(client: openai.OpenAI) -> None:
    video = client.videos.create(
        prompt="a cat", extra_body={**SMALL, "seed": 3, "degrade": False}, extra_headers=JSON
    )
    assert video.status in ("queued", "in_progress")
    as_form = client.videos.create(prompt="a cat", extra_body={**SMALL, "seed": 3, "degrade": False})
    both: list[Any] = [client.videos.retrieve(each.id) for each in (video, as_form)]
    assert [(each.size, each.seed, each.num_frames) for each in both] == 2 * [("64x64", 3, 5)]
    assert client.videos.poll(video.id, poll_interval_ms=100).status == "completed"


def test_an_idempotency_key_of_the_client(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "once"}
    ids = {
        client.videos.create(prompt="a fox", size=SIZE, extra_body=FEW, extra_headers=headers).id
        for _ in range(2)
    }
    assert len(ids) == 1


def test_list_pages(client: openai.OpenAI) -> None:
    for _ in range(3):
        client.videos.create(prompt="a bird", extra_body=SMALL)
    page = client.videos.list(limit=2)
    assert len(page.data) == 2
    assert page.has_next_page()
    newest = [video.id for video in client.videos.list(limit=2)]  # iterates over every page
    oldest = [video.id for video in client.videos.list(limit=100, order="asc")]
    assert newest == oldest[::-1]
    assert len(set(newest)) == len(newest) >= 3


def test_download(client: openai.OpenAI, made: Video, tmp_path: Path) -> None:
    client.videos.download_content(made.id).write_to_file(tmp_path / "dog.mp4")
    with av.open(tmp_path / "dog.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == 5 * [(64, 64, 3)]


@pytest.mark.parametrize("variant", ["thumbnail", "spritesheet"])
def test_variants(client: openai.OpenAI, made: Video, variant: Any) -> None:
    data = client.videos.download_content(made.id, variant=variant).read()
    with av.open(io.BytesIO(data)) as container:
        (frame,) = container.decode(video=0)
    assert frame.width >= 64


def test_delete(client: openai.OpenAI) -> None:
    video = client.videos.create(prompt="a frog", extra_body=SMALL)
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.retrieve(video.id)
    assert caught.value.code == "not_found"


def test_a_picture_to_begin_with_is_refused_by_name(client: openai.OpenAI) -> None:
    picture = ("dog.png", b"\x89PNG", "image/png")
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt="a dog", input_reference=picture)
    assert caught.value.param == "input_reference"
    assert "from text only" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "720x1281"}, "size"),
        ({"size": "big"}, "size"),
        ({"seconds": "soon"}, "seconds"),
        ({"model": "sora-2"}, "model"),
        ({"extra_body": {"wdth": 64}}, "wdth"),
    ],
)
def test_errors_name_their_field(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt="a dog", **fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_content_that_is_not_there_yet(client: openai.OpenAI) -> None:
    video = client.videos.create(
        prompt="a dog", extra_body={"num_frames": 33, "num_inference_steps": 100, "priority": "batch"}
    )
    with pytest.raises(openai.ConflictError) as caught:
        client.videos.download_content(video.id)
    assert caught.value.code == "not_ready"
    client.videos.delete(video.id)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
