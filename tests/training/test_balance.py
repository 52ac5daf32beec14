"""The router's biases move until the experts share the work."""

import torch
from training.balance import EVEN, even_out
from training.dit import CONFIG

from rushes.models.wan import Wan
from rushes.models.wan_blocks import Experts


def test_biases_move_against_the_load_until_it_is_even() -> None:
    """A router whose loads answer to its bias as softmax would."""
    torch.manual_seed(3)
    model = Wan(CONFIG)
    leaning = torch.randn(CONFIG.num_layers, CONFIG.experts.num_experts)
    layers = [block.ffn for block in model.blocks]
    assert all(isinstance(layer, Experts) for layer in layers)
    before = torch.stack([layer.router_bias.clone() for layer in layers])

    def measure() -> torch.Tensor:
        moved = torch.stack([layer.router_bias for layer in layers]) - before
        return (leaning + 40 * moved).softmax(1) * 1000

    worst = even_out([model], measure, rounds=40)
    assert worst[0] > 1.5
    assert worst[-1] <= EVEN
    assert sorted(worst, reverse=True) == worst
