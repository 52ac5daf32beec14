"""What a mix of requests allows: rates that no cache can beat, to be printed beside those reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rushes.profiling.workloads.base import KINDS, LabelledPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How many requests of a stream are of each kind, and the bounds that follow.

    A cache that serves no wrong video can serve an exact repeat from the stored clip, a rewording and an edit
    from stored latents at best, and must compute a new request in full.
    """

    exact: int
    rewording: int
    edit: int
    new: int

    @property
    def num(self) -> int:
        """Requests in all."""
        return self.exact + self.rewording + self.edit + self.new

    @property
    def exact_share(self) -> float:
        """The most that can hit as exact repeats, of 1."""
        return self.exact / self.num

    @property
    def same_meaning_share(self) -> float:
        """The most that can hit where a hit must mean the same: exact repeats and rewordings."""
        return (self.exact + self.rewording) / self.num

    @property
    def hit_share(self) -> float:
        """The most that can hit where edits go on from their source too."""
        return 1 - self.new / self.num

    def mean_s(self, full_s: float, *, exact_s: float = 0.0, latent_s: float | None = None) -> float:
        """The least mean seconds of a request.

        Args:
            full_s: a request computed in full.
            exact_s: one served from the stored clip.
            latent_s: one that goes on from stored latents; None for none: rewordings and edits in full.

        Example:
            >>> Mix(exact=45, rewording=25, edit=15, new=15).mean_s(20.0)
            11.0
        """
        part_s = full_s if latent_s is None else latent_s
        total_s = self.exact * exact_s + (self.rewording + self.edit) * part_s + self.new * full_s
        return total_s / self.num


def mix_of(prompts: Sequence[LabelledPrompt]) -> Mix:
    """Of a stream or its beginning."""
    counts = Counter(prompt.kind for prompt in prompts)
    return Mix(**{kind: counts[kind] for kind in KINDS})


def hits_needed(mean_s: float, *, full_s: float, hit_s: float = 0.0) -> float:
    """The share of hits that a mean takes, of 1.

    Example: from 23 s to a mean of 1 s.
        >>> round(hits_needed(1.0, full_s=23.0), 3)
        0.957
    """
    return (full_s - mean_s) / (full_s - hit_s)
