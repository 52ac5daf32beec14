"""`make parity`: how far Rushes is from diffusers, in one table; exits 1 where a figure misses its bar.

Tiny random checkpoints, float32, CPU. A row is the worst of its cases.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import diffusers
import torch
import transformers
from tests import oracle
from tests.oracle import CHANNELS, Figure, compare
from tests.sampling.test_solvers import SHIFTS, oracle_path, our_path

from rushes.models.checkpoint_writer import make_checkpoint
from rushes.sampling.solvers import SOLVERS

SOLVER_STEPS = (1, 2, 4, 10, 40)
COMPARISONS = (
    oracle.transformer_figures,
    oracle.vae_figures,
    oracle.pipeline_figures,
    oracle.batch_figures,
)


def solver_figures() -> Iterator[Figure]:
    """Every point of each solver's path on one fixed velocity field."""
    for name in SOLVERS.names():
        for shift in SHIFTS:
            for num_steps in SOLVER_STEPS:
                ours, theirs = (path(name, num_steps, shift, 0) for path in (our_path, oracle_path))
                case = f"{name}, shift {shift:g}, {num_steps} steps"
                yield compare(f"solver {name}", case, torch.stack(ours), torch.stack(theirs), 1e-5)


def all_figures(scratch: Path) -> Iterator[Figure]:
    """Every figure, those of one table row after one another."""
    yield from solver_figures()
    for kind in CHANNELS:
        folder = make_checkpoint(kind, scratch / kind)
        for figures in COMPARISONS:
            found = list(figures(kind, folder))
            yield from sorted(found, key=lambda figure: figure.what)


def worst_of_rows(figures: Iterable[Figure]) -> Iterator[tuple[Figure, int]]:
    """The worst figure of each row, and how many the row has."""
    rows = groupby(figures, key=lambda figure: (figure.what, figure.case.split(maxsplit=1)[0]))
    for _, row in rows:
        cases = list(row)
        # A figure that is not a number counts as worse than any.
        yield max(cases, key=lambda figure: (not figure.is_met, figure.relative)), len(cases)


def main() -> int:
    """Print the table as it is made."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # on tensors this small, threads only wait for each other
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    begin, num_missed = time.perf_counter(), 0
    print(f"{'what':30} {'worst case':46} {'cases':>5} {'relative':>9} {'max':>9} {'bar':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        for worst, num_cases in worst_of_rows(all_figures(Path(scratch))):
            bar = f"{worst.bar:9.0e}" if worst.bar else "    equal"
            verdict = "" if worst.is_met else "  MISSED"
            numbers = f"{worst.relative:9.1e} {worst.maximum:9.1e} {bar}"
            print(f"{worst.what:30} {worst.case:46} {num_cases:5} {numbers}{verdict}", flush=True)
            num_missed += not worst.is_met
    seconds = time.perf_counter() - begin
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, {seconds:.0f} s")
    print(f"{num_missed} rows missed their bar" if num_missed else "every figure is within its bar")
    return 1 if num_missed else 0


if __name__ == "__main__":
    sys.exit(main())
