"""Our own models as subjects of the profiler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from rushes.pipelines.model import Model
from rushes.profiling.clip import UNITS, Ask, Clip, run_clip, scale_of
from rushes.profiling.device import device_for
from rushes.profiling.instrument import replaced
from rushes.profiling.session import Options, Session, profile
from rushes.profiling.stage_table import Factors
from rushes.trace import Listener


@dataclass(slots=True, kw_only=True)
class Rushes:
    """A `Subject`: a clip of a model of ours.

    Attributes:
        attention: the attention kernel to run with; None for the model's own.
        short_steps: of each noise expert in a short run.
    """

    net: Model
    ask: Ask
    label: str = "rushes"
    model: str = ""
    attention: str | None = None
    short_steps: int = UNITS

    def __post_init__(self) -> None:
        self.model = self.model or self.net.rules.name

    @property
    def device(self) -> torch.device:
        """See `Subject`."""
        return self.net.device

    def warm_up(self) -> None:
        """See `Subject`."""
        self.net.warm_up()

    @contextmanager
    def spans(self) -> Iterator[None]:
        """See `Subject`. Our own code opens them; what is put in place here is the attention kernel."""
        with ExitStack() as stack:
            if self.attention is not None:
                for module in self._attentions():
                    stack.enter_context(replaced(module, "backend", self.attention))
            yield

    def clip(self, *, is_short: bool, beside: Sequence[Listener] = ()) -> Clip:
        """See `Subject`."""
        device = device_for(self.device)
        return run_clip(self.net, self.ask, device, is_short=is_short, beside=beside, steps=self.short_steps)

    def factors(self, clip: Clip) -> Factors:
        """See `Subject`."""
        return scale_of(clip, self.net.boundary)

    def _attentions(self) -> Iterator[torch.nn.Module]:
        """Every module that names an attention kernel, of both noise experts."""
        experts = self.net.parts.experts()
        networks = dict.fromkeys(experts.select(timestep) for timestep in (1000.0, 0.0))
        for network in networks:
            yield from (module for module in network.modules() if hasattr(module, "backend"))


def profile_model(net: Model, ask: Ask, options: Options | None = None) -> Session:
    """Profile one clip of one model.

    Example:
        >>> import rushes
        >>> from rushes.profiling.subject import Ask, profile_model
        >>> session = profile_model(rushes.load("toy"), Ask(prompt="a dog"))  # doctest: +SKIP
        >>> session.run.findings[0].text  # doctest: +SKIP
        'vae_decode: conv3d 32x48 takes ...'
    """
    return profile([Rushes(net=net, ask=ask)], options or Options())[0]
