"""Two processes that train together: what they share, average and agree on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training.team import Team, join

WORK = """
import json, sys
import torch
from training.team import join

team = join()
weight = torch.nn.Parameter(torch.full((2, 3), float(team.rank)))
bias, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
weight.grad, bias.grad = torch.full((2, 3), 1.0 + team.rank), torch.tensor([0.0, 4.0 * team.rank])
team.average_gradients([weight, bias, unused])
team.share(weight)
found = {
    "weight": weight.tolist(),
    "gradients": [weight.grad.tolist(), bias.grad.tolist(), unused.grad],
    "total": team.total(torch.tensor([1.0, team.rank])).tolist(),
    "agreed": team.agree(0.25 + team.rank),
    "seed": team.seed(7),
    "leads": team.leads,
}
with open(f"{sys.argv[1]}/{team.rank}.json", "w") as file:
    json.dump(found, file)
team.leave()
"""


def test_alone_nothing_changes() -> None:
    team = join()
    assert team == Team()
    assert (team.leads, team.seed(7), team.agree(0.3)) == (True, 7, 0.3)
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    team.average_gradients([parameter])
    team.leave()
    assert parameter.grad.tolist() == team.total(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_average_their_gradients_and_follow_the_leader(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(tmp_path / "work.py"), str(tmp_path)], check=True, env=environment, timeout=120
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for found in (first, second):
        assert found["weight"] == [[0.0] * 3] * 2
        assert found["gradients"] == [[[1.5] * 3] * 2, [0.0, 2.0], None]
        assert found["total"] == [2.0, 1.0]
        assert found["agreed"] == 0.25
    assert (first["seed"], first["leads"], second["seed"], second["leads"]) == (7, True, 1007, False)
