"""Differences between settings, beside the floor; the JSON of a whole report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bench_parts import FakeContender, make_request

from rushes.profiling.bench.about import about, commit
from rushes.profiling.bench.memory import peak_host_bytes
from rushes.profiling.bench.quality import (
    Variation,
    computed_in_full,
    difference,
    differences,
    make_all,
    make_clip,
    other_kernel,
)
from rushes.profiling.bench.report import Report
from rushes.profiling.bench.seconds import DEFINITIONS, ClipSeconds, ColdStart
from rushes.profiling.bench.tables import tables_of
from rushes.profiling.workloads.mix import Mix

ROOT = Path(__file__).parents[3]


def test_a_planted_difference_is_found_and_an_equal_one_is_none() -> None:
    ours, brighter = FakeContender("ours"), FakeContender("brighter", brightness=5)
    requests = [make_request(seed=seed) for seed in (1, 2)]
    variations = [
        Variation(name="ours", make=lambda request: make_clip(ours, request)),
        Variation(name="again", make=lambda request: make_clip(ours, request), is_floor=True),
        Variation(name="brighter", make=lambda request: make_clip(brighter, request)),
    ]
    found = differences(variations, make_all(variations, requests))
    assert set(found) == {"again", "brighter"}
    assert (found["again"].is_floor, found["again"].latent_l1) == (True, 0.0)
    assert found["again"].comparison.psnr_db == math.inf
    planted = found["brighter"]
    assert planted.comparison.psnr_db == pytest.approx(20 * math.log10(255 / 5))
    assert planted.latent_l1_curve == pytest.approx((5.0, 2.5, 5 / 3))
    assert planted.latent_l1 == pytest.approx(5 / 3)


def test_other_numbers_of_steps_have_no_curve() -> None:
    ours = FakeContender("ours")
    short, long = (make_clip(ours, make_request(steps=steps)) for steps in (2, 4))
    found = difference([short], [long])
    assert (found.latent_l1_curve, found.latent_l1) == ((), 1.0)


def test_in_full_means_without_reuse() -> None:
    request = make_request()
    assert computed_in_full(request) == request


def test_the_other_kernel_is_another_one() -> None:
    q, k, v = torch.randn(3, 1, 2, 200, 16, generator=torch.Generator().manual_seed(0))
    usual = F.scaled_dot_product_attention(q, k, v)
    with other_kernel(torch.device("cpu"), torch.float32):
        other = F.scaled_dot_product_attention(q, k, v)
    assert not torch.equal(usual, other)
    assert torch.allclose(usual, other, atol=1e-5)
    assert torch.equal(usual, F.scaled_dot_product_attention(q, k, v))


def test_a_report_is_plain_json_with_what_made_it() -> None:
    ours = FakeContender("ours")
    made = make_clip(ours, make_request())
    report = Report(
        about=about(torch.device("cpu"), ["bench", "--peer", "diffusers"]),
        model="toy",
        dtype="float32",
        workload="batch",
        workload_seed=0,
        request=make_request(),
        mix=Mix(exact=1, rewording=0, edit=0, new=3),
        cold={
            "rushes": ColdStart(
                import_s=1.0, load_s=2.0, first_run_s=3.0, peak_host_bytes=10**9, peak_device_bytes=None
            )
        },
        quality={"again": difference([made], [made])},
    )
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["definitions"] == dict(DEFINITIONS)
    assert found["cold"]["rushes"]["cold_start_s"] == 6.0
    assert found["mix"]["exact_share"] == 0.25
    assert found["quality"]["again"]["comparison"]["psnr_db"] is None, "JSON has no infinity"
    assert found["request"]["video"] == {"width": 32, "height": 16, "num_frames": 5, "fps": 8}
    assert found["about"]["command"] == ["rushes", "bench", "--peer", "diffusers"]
    assert {"commit", "versions", "cpu", "device", "torch_threads", "made_at"} <= set(found["about"])
    assert found["about"]["versions"]["torch"] == torch.__version__
    titles = [table.title for table in tables_of(report)]
    assert titles[0] == "batch: 4 requests"
    assert len(titles) == 3


def test_the_commit_is_unknown_outside_a_checkout(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"


def test_peak_memory_never_falls() -> None:
    block = torch.ones(50_000_000)  # 200 MB
    during = peak_host_bytes()
    del block
    assert during > 250e6
    assert peak_host_bytes() > during - 8e6, "a thread tells the kernel of its pages a few at a time"


def test_the_page_tells_every_definition() -> None:
    """docs/benchmarking.md prints the texts of the code, word for word."""
    page = " ".join((ROOT / "docs" / "benchmarking.md").read_text(encoding="utf-8").split())
    for name, text in DEFINITIONS.items():
        assert " ".join(text.split()) in page, name


def test_what_lies_between_the_stages() -> None:
    found = ClipSeconds(
        first_preview_s=None,
        first_frame_s=1.0,
        end_to_end_s=4.0,
        stages_s={"denoise": 2.5, "vae_decode": 1.0},
        num_bytes=10,
    )
    assert found.other_s == pytest.approx(0.5)
