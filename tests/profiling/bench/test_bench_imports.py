"""What a contender imports counts as imports: opening it afterwards only loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rushes.models.checkpoint_writer import make_checkpoint

CHILD = """
import json, sys
from rushes.profiling.bench import child, contenders

seen = []

def opened(name, place):
    seen.extend(sys.modules)
    raise SystemExit(json.dumps(seen))

contenders.open_contender = opened
child.become_ready({"contender": sys.argv[1], "model": sys.argv[2], "device": "cpu", "dtype": "float32"})
"""


@pytest.mark.parametrize(
    ("contender", "modules"),
    [
        ("rushes", {"rushes.pipelines.model", "rushes.models.loader", "rushes.models.umt5"}),
        ("diffusers", {"rushes.profiling.bench.diffusers_pipeline", "diffusers", "transformers"}),
    ],
)
def test_a_contenders_modules_are_imported_before_it_is_opened(
    contender: str, modules: set[str], tmp_path: Path
) -> None:
    folder = make_checkpoint("ti2v-5b", tmp_path / "tiny")
    command = (sys.executable, "-c", CHILD, contender, str(folder))
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert modules <= set(json.loads(ended.stderr.strip().splitlines()[-1]))
