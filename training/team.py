"""Training on one GPU or on several: every process draws clips of its own, gradients are averaged.

torchrun --nproc-per-node 2 -m training.dit ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The processes of one run; `size` 1 talks to nobody."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed for what each process draws by itself."""
        return seed + 1000 * self.rank

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)]
        )

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, number: float) -> float:
        """The leader's number. Does not wait for the GPU."""
        told = torch.tensor(number, dtype=torch.float64)
        if self.size > 1:
            dist.broadcast(told, 0)
        return float(told)

    def share(self, tensor: Tensor) -> None:
        """Give every process the leader's tensor, in place."""
        if self.size > 1:
            dist.broadcast(tensor.detach(), 0)

    def leave(self) -> None:
        """Wait for the others and say good-bye."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def join() -> Team:
    """The team that `torchrun` started this process in, or a team of one; chooses this process's GPU."""
    if not dist.is_torchelastic_launched():
        return Team()
    has_gpus = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo")
    if has_gpus:
        torch.cuda.set_device(dist.get_rank())
    return Team(rank=dist.get_rank(), size=dist.get_world_size())
