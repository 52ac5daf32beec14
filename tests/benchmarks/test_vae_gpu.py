"""The VAE's GPU benchmark, proven on the CPU in tiny shapes."""

import json

import pytest
from benchmarks.random_vae import TINY

from benchmarks import vae_gpu


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        # Tracing takes a minute.
        skipped = ("compile", "2.1 720p81")
        asked = [word for name in skipped for word in ("--skip", name)]
        assert vae_gpu.main(["--tiny", "--commit", "abc", *asked]) == 0
    return json.loads((folder / "vae_gpu.json").read_text())


def test_every_part_runs_but_the_skipped(content):
    status = {name: part["status"] for name, part in content["parts"].items()}
    assert {status.pop("compile"), status.pop("2.1 720p81")} == {"skipped: as asked"}
    assert set(status.values()) == {"done"}
    for part in content["parts"].values():
        assert not [value for value in part["figures"].values() if str(value).startswith("failed")]


@pytest.mark.parametrize("model", ["2.1", "2.2"])
def test_weights_are_the_same_in_both_libraries(content, model):
    figures = content["parts"][f"{model} accuracy"]["figures"]
    assert figures["ours vae-fused float32, relative"] < 1e-5
    assert 1e-5 < figures["diffusers bf16 against float32, relative"] < 0.1
    assert figures["ours vae-fused / diffusers (bar 1.1)"] < 1.3


def test_every_way_is_timed(content):
    parts = content["parts"]
    for name in ("ours eager", "ours vae-fused", "diffusers eager"):
        assert any(label.startswith(name) for label in parts["2.1 480p81"]["figures"])
    assert len(parts["convs"]["figures"]) == len(TINY.convs) + 2 * len(TINY.doublings)
    assert parts["batches"]["figures"]["batch 1, 2 latent frames, throughput of batch 1 [times]"] == 1
    assert sum("speed of the whole" in label for label in parts["tiles"]["figures"]) == 2
