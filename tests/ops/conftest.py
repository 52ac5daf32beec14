"""Fresh random input for every test; a failure's report shows the seed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = int(torch.randint(2**31, ()).item()) ^ torch.seed() % 2**31
    torch.manual_seed(drawn)
    print(f"torch.manual_seed({drawn})")
    return drawn
