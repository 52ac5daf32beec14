"""Device, dtype and memory: what is chosen, and what one line says when it cannot be."""

import pytest
import torch

from rushes.errors import ConfigError
from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_report import memory_need
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.pipelines.device import (
    PUBLISHED,
    check_memory,
    choose_device,
    choose_dtype,
    host_memory,
    residency_notes,
)

CPU = torch.device("cpu")


def test_the_dtype_follows_the_device_unless_named():
    assert choose_dtype(None, CPU) == torch.float32
    assert choose_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("float16", CPU) == choose_dtype(torch.float16, CPU) == torch.float16


def test_the_default_device_is_cuda_where_there_is_one():
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda: choose_dtype("int4", CPU), "'int4' is not one of float32, bfloat16, float16"),
        (lambda: choose_device("gpu"), "'gpu' is not a torch device"),
        (lambda: choose_device("cuda:99"), "'cuda:99' was asked for, and torch sees"),
    ],
)
def test_what_cannot_be_chosen_is_named(choose, message):
    with pytest.raises(ConfigError, match=message):
        choose()


def test_a_checkpoint_that_fits_passes_and_one_that_does_not_says_so_in_one_line(tmp_path):
    checkpoint = open_checkpoint(make_checkpoint("a14b", tmp_path / "a14b"))
    check_memory(checkpoint, CPU, torch.float32, free_bytes=10_000_000)
    with pytest.raises(ConfigError) as caught:
        check_memory(checkpoint, CPU, torch.float32, free_bytes=100_000)
    message = str(caught.value)
    assert "wan2.2-t2v-a14b in float32 needs" in message
    assert "0.0 GB are free; what would fit: the toy" in message
    assert "\n" not in message


def test_only_a_gpu_with_host_memory_to_spare_leaves_parts_there(tmp_path):
    checkpoint = open_checkpoint(make_checkpoint("a14b", tmp_path / "a14b"))
    need = memory_need(checkpoint.describe().parts, "float32")
    cuda = torch.device("cuda")
    for residency in ("resident", "streamed", "swapped", "swapped and streamed"):
        free, host = need.needed(residency)
        found = check_memory(checkpoint, cuda, torch.float32, free_bytes=free, host_bytes=host)
        assert found == residency
        assert len(residency_notes(checkpoint, torch.float32, found)) == ("streamed" in residency)
    with pytest.raises(
        ConfigError, match=r"GB on cuda and .* GB on the host .* free and 0\.0 GB of the host's"
    ):
        check_memory(checkpoint, cuda, torch.float32, free_bytes=free, host_bytes=host - 1)
    for device in (CPU, torch.device("mps")):
        check_memory(checkpoint, device, torch.float32, free_bytes=need.resident)
        with pytest.raises(ConfigError, match=rf"needs 0\.0 GB on {device.type}, 0\.0 GB are free; what"):
            check_memory(checkpoint, device, torch.float32, free_bytes=need.resident - 1)


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_limit_bounds_the_host_memory(tmp_path, file):
    whole = host_memory(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for text, expected in (("1000000\n", 1_000_000), ("max\n", whole), (f"{2**63 - 4096}\n", whole)):
        (tmp_path / file).write_text(text)
        assert host_memory(tmp_path) == expected


def test_published_sizes_need_what_the_cards_have():
    need = {name: memory_need(parts, "bfloat16") for name, parts in PUBLISHED.items()}
    # One 141 GB card holds both noise experts and the text encoder; an 80 GB card both experts without it.
    assert need["wan2.2-t2v-a14b"].fits(141_000_000_000) == "resident"
    a14b, host = need["wan2.2-t2v-a14b"], 64_000_000_000
    cards = {80: "streamed", 64: "swapped", 48: None}
    assert {gb: a14b.fits(gb * 10**9, host) for gb in cards} == cards
    assert a14b.fits(48 * 10**9, 80 * 10**9) == "swapped and streamed"
    assert a14b.fits(80 * 10**9, 10 * 10**9) is None
    assert need["wan2.2-ti2v-5b"].fits(24_000_000_000) is None
    assert need["wan2.2-ti2v-5b"].fits(24_000_000_000, host) == "streamed"
    assert need["wan2.2-ti2v-5b"].fits(32_000_000_000, host) == "resident"
    assert need["wan2.1-t2v-1.3b"].fits(24_000_000_000) == "resident"
