"""Everything that one bench found, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rushes.profiling.bench.alone import Alone
from rushes.profiling.bench.judging import Judged
from rushes.profiling.bench.load import LoadResult
from rushes.profiling.bench.pairs import Pairs
from rushes.profiling.bench.quality import Difference
from rushes.profiling.bench.savings import Savings
from rushes.profiling.bench.seconds import DEFINITIONS, ColdStart
from rushes.profiling.output import plain
from rushes.profiling.workloads.mix import Mix
from rushes.types import GenerateRequest, Json

SCHEMA = 1


@dataclass(slots=True, kw_only=True)
class Report:
    """A bench in the making; parts that were not asked for stay empty.

    Attributes:
        about: commit, versions, machine, driver.
        model, dtype: as they were opened.
        workload, workload_seed: where the prompts come from.
        request: the first one, whole: shapes and sampling of all.
        load_mix: of the requests of the load, which are the beginning of the workload.
        contenders: settings by name.
    """

    about: Mapping[str, Json]
    model: str
    dtype: str
    workload: str
    workload_seed: int
    request: GenerateRequest
    mix: Mix
    load_mix: Mix | None = None
    contenders: dict[str, Mapping[str, Json]] = field(default_factory=dict)
    cold: dict[str, ColdStart] = field(default_factory=dict)
    alone: Alone | None = None
    pairs: Pairs | None = None
    load: LoadResult | None = None
    savings: Savings | None = None
    quality: dict[str, Difference] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes with `allow_nan=False`: what is infinite, as the PSNR of equal
        clips, is null."""
        found = plain(self, DERIVED)
        return {"schema": SCHEMA, "definitions": dict(DEFINITIONS), **found}


DERIVED: dict[type, tuple[str, ...]] = {
    ColdStart: ("cold_start_s",),
    LoadResult: ("num_completed", "completed_rate", "utilization", "rate_bound"),
    Mix: ("num", "exact_share", "same_meaning_share", "hit_share"),
}
"""Properties that are written beside the fields."""
