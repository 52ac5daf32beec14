"""The kernel benchmark's code, proven on the CPU in tiny shapes."""

import json

import pytest

from benchmarks import kernels_gpu


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        assert kernels_gpu.main(["--tiny", "--skip", "linears 720p", "--skip", "attention 720p"]) == 0
    return json.loads((folder / "kernels_gpu.json").read_text())["parts"]


def test_every_part_runs_and_no_kernel_fails(parts):
    for name, part in parts.items():
        assert part["status"] == ("skipped: as asked" if name.endswith("720p") else "done")
        assert not [figure for figure in part["figures"].values() if str(figure).startswith("failed")]


def test_errors_are_those_of_the_formats(parts):
    linears, attention = parts["linears 480p"]["figures"], parts["attention 480p"]["figures"]
    for layer in ("qkv", "out and cross", "ffn up", "ffn down"):
        assert linears[f"{layer}, bf16, relative error"] < 0.004
        assert 0.004 < linears[f"{layer}, int8, relative error"] < 0.02
        assert 0.02 < linears[f"{layer}, fp8, relative error"] < 0.06
    for kernel in ("cudnn", "sparse flex", "sparse fa3"):
        assert attention[f"{kernel}, relative error"] < 0.01
    for kernel in ("fp8, compiled quantisation", "sparse fa3 fp8"):
        assert 0.01 < attention[f"{kernel}, relative error"] < 0.1
    assert attention["masked as sparse fa3 against dense softmax, relative"] > 0.1
