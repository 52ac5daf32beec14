"""What costs time that the device does not need, in plain words, the largest saving first. No torch here.

Savings are estimates, each as if it alone were mended:

- host: long stretches in which the device has nothing to do while the host is busy elsewhere;
- sync, launches: from a replay of the host's calls and the device's queue (`rushes.profiling.replay`);
- kernel, layout: against what the same shape reached alone in this run, in the best kernel or layout tried;
- operator: against moving its data once at a good share of the copy ceiling;
- fusion: chains of operators that each move their data, against moving it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rushes.profiling.evidence import Evidence
from rushes.profiling.find_host import host_findings, queue_findings
from rushes.profiling.find_kernels import fusion_findings, kernel_findings, operator_findings
from rushes.profiling.report import Finding

MIN_SHARE = 0.01
"""Of the whole, below which a saving is not worth a sentence."""

MAX_FINDINGS = 12

Source = Callable[[Evidence], Iterator[Finding]]
SOURCES: tuple[Source, ...] = (
    host_findings,
    queue_findings,
    kernel_findings,
    operator_findings,
    fusion_findings,
)


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings, largest saving first."""
    least_s = MIN_SHARE * evidence.total_s
    found = [each for source in SOURCES for each in source(evidence) if each.saving_s >= least_s]
    return tuple(sorted(found, key=lambda finding: -finding.saving_s)[:MAX_FINDINGS])
