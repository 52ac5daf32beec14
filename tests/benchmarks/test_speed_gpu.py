"""The speed table's code, proven on the CPU in tiny shapes; nothing is compiled here."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from benchmarks.random_wan import diffusers_sharing, random_wan
from benchmarks.speed_fleet import TINY_A14B
from benchmarks.speed_rungs import LADDER, changed, num_bytes, rungs, sharing

from benchmarks import speed_gpu
from rushes.ops.layout import channels_last
from rushes.passes.attention import Attention

CPU = torch.device("cpu")
ROWS = ("precision", "a14b-480p-40", "compile", "a14b-480p-4", "vae21-480p", "first-frame-480p", "errors")
NOT_COMPILED = ("compile", "vae-compile", "vae-fused")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("out")
    words = [word for row in ROWS for word in ("--only", row)]
    words += [word for name in NOT_COMPILED for word in ("--without", name)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "RUSHES_CACHE"):
            patch.delenv(name, raising=False)
        patch.setenv("OUT", str(folder))
        given = ["--tiny", "--keep-caches", "--rounds", "2", "--clips", "1", "--name", "x", *words]
        assert speed_gpu.main(given) == 0
    return json.loads((folder / "x.json").read_text())["parts"]


def test_the_asked_rows_are_done_and_no_others(parts: dict[str, Any]) -> None:
    assert {name for name, part in parts.items() if part["status"] == "done"} == set(ROWS)
    assert not any(part["figures"] for name, part in parts.items() if name not in ROWS)


def test_forty_steps_are_the_median_forward_times_the_counts(parts: dict[str, Any]) -> None:
    figures = parts["a14b-480p-40"]["figures"]
    assert "extrapolated" in figures
    for name in ("diffusers", "plain"):
        row = figures[name]
        assert row["forwards"] == [40, 40]
        assert row["seconds"] == pytest.approx(80 * row["forward_s"], rel=1e-2, abs=1e-3)
        assert len(row["all"]) == 2


def test_a_clip_reaches_the_client_and_every_stage_is_timed(parts: dict[str, Any]) -> None:
    exact = parts["a14b-480p-4"]["figures"]["exact"]
    assert set(exact["stages_s"]) == {"text_encode", "denoise", "vae_decode"}
    assert 0 < exact["first_frame_s"] <= exact["seconds"]
    assert [one["name"] for one in exact["passes"]][:1] == ["attention"]
    assert all("left out, as asked" in line for line in exact["lacks"])
    assert parts["a14b-480p-4"]["figures"]["diffusers / ours"]["exact"] > 0


def test_errors_are_against_float32_and_beside_diffusers(parts: dict[str, Any]) -> None:
    figures = parts["errors"]["figures"]
    assert 0 < figures["plain"]["error"] < 0.1
    assert figures["plain"]["over diffusers"] == pytest.approx(
        figures["plain"]["error"] / figures["diffusers"]["error"], abs=2e-3
    )
    precision = parts["precision"]["figures"]
    assert precision["float32"]["error"] == 0
    assert precision["float16"]["error"] < precision["bfloat16"]["error"]
    assert precision["bfloat16"]["not finite"] == 0


def test_vae_passes_that_are_not_there_are_named(parts: dict[str, Any]) -> None:
    figures = parts["vae21-480p"]["figures"]
    assert figures["plain"]["seconds"] > 0
    assert figures["vae-compile"] == {"failed": "left out, as asked"}


def test_a_changed_network_shares_its_weights_and_leaves_the_first_plain() -> None:
    plain = random_wan(TINY_A14B.transformer, 1, CPU, torch.bfloat16)
    other = sharing(plain)
    assert other.head.weight is not plain.head.weight
    assert other.head.weight.data_ptr() == plain.head.weight.data_ptr()
    rung = next(rung for rung in rungs(CPU) if rung.name == "attention")
    made, done = changed("transformer", plain, rung)
    assert any(isinstance(one, Attention) for one in done.passes)
    assert made.blocks[0].self_attn.backend == "sdpa"
    assert plain.blocks[0].self_attn.backend == "auto"
    assert num_bytes(made) == num_bytes(plain)


def test_the_twins_weights_are_views_of_ours() -> None:
    plain = random_wan(TINY_A14B.transformer, 1, CPU, torch.bfloat16)
    twin = diffusers_sharing(plain, torch.bfloat16)
    ours = {parameter.untyped_storage().data_ptr() for parameter in plain.parameters()}
    shared = [p for p in twin.parameters() if p.untyped_storage().data_ptr() in ours]
    assert sum(p.numel() for p in shared) > 0.5 * sum(p.numel() for p in twin.parameters())


def test_the_ladder_grows_and_a_missing_pass_leaves_its_rung_without_it() -> None:
    found = rungs(CPU, ["compile"])
    assert [rung.name for rung in found] == [name for name, _, _ in LADDER]
    for before, after in itertools.pairwise(found):
        assert after.passes[: len(before.passes)] == before.passes
    assert "compile: left out, as asked" in found[-1].lacks


def test_another_layout_of_a_shared_network_leaves_the_first_plain() -> None:
    plain = torch.nn.Conv2d(4, 4, 3)
    other = channels_last(sharing(plain))
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.weight.is_contiguous()
    assert sharing(plain).weight.data_ptr() == plain.weight.data_ptr()
