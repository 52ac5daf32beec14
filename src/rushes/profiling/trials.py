"""What this device reached, by shape and kernel, and what that makes of a call. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from rushes.profiling.calls import Call
from rushes.profiling.kineto import Node
from rushes.profiling.op_work import short, tensors
from rushes.profiling.report import Ceiling

WORKERS = (
    *("mm", "addmm", "_addmm_activation", "bmm", "baddbmm"),
    *("scaled_dot_product_attention", "conv2d", "conv3d", "convolution"),
)


def worker(op: Node) -> Node:
    """The operator within that does the work: the product in a linear layer."""
    return next((node for node in op.below() if short(node.name) in WORKERS), op)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One kernel on one shape, alone.

    Attributes:
        signature: of the operator that it stands for; empty for a generic shape.
        variant: the kernel or layout.
        seconds: of the fastest call.
    """

    resource: str
    dtype: str
    signature: str
    variant: str
    seconds: float
    rate: float


@dataclass(slots=True, kw_only=True)
class Ceilings:
    """Everything tried."""

    trials: list[Trial] = field(default_factory=list)
    _best: dict[tuple[str, str, int], Trial | None] = field(default_factory=dict)

    def best(self, resource: str, dtype: str) -> Trial | None:
        """The fastest trial of a resource in a dtype; for copies the dtype does not matter."""
        # Asked for every call of a recording, of which there are tens of thousands.
        key = (resource, "" if resource == "copy" else dtype, len(self.trials))
        if key not in self._best:
            fitting = [
                t for t in self.trials if t.resource == resource and (resource == "copy" or t.dtype == dtype)
            ]
            self._best[key] = max(fitting, key=lambda trial: trial.rate, default=None)
        return self._best[key]

    def of_shape(self, signature: str) -> Trial | None:
        """The fastest trial of a shape."""
        fitting = [trial for trial in self.trials if trial.signature == signature]
        return min(fitting, key=lambda trial: trial.seconds, default=None)

    def ideal_s(self, call: Call) -> float:
        """What a call would take at its ceilings: of operations or of bytes, whichever takes longer."""
        copy = self.best("copy", "")
        seconds = call.work.num_bytes / copy.rate if copy else 0.0
        top = self.best(call.work.family, call.work.dtype) if call.work.flops else None
        return max(seconds, call.work.flops / top.rate) if top else seconds

    def to_report(self) -> tuple[Ceiling, ...]:
        """The best of every resource and dtype."""
        keys = dict.fromkeys((trial.resource, trial.dtype) for trial in self.trials)
        found = [(key, self.best(*key)) for key in keys]
        return tuple(
            Ceiling(resource=resource, dtype=dtype, rate=trial.rate, how=trial.variant)
            for (resource, dtype), trial in found
            if trial is not None
        )


def signature(op: Node) -> str:
    """What makes two calls of an operator the same work: name, shapes and types."""
    return f"{short(op.name)} {[(list(shape), kind) for shape, _, kind in tensors(op)]}"
