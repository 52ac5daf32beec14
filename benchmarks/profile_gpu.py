"""Everything that the profiler promises of a GPU, in one run of five minutes at most.

    OUT=out python -m benchmarks.profile_gpu --commit X --seconds 300

Full reports of the toy, TI2V-5B at 704p121 and A14B at 480p81 and 720p81, the Wan models with random weights
and with diffusers on the same weights in the same run; and what profiling itself costs. Of A14B and TI2V-5B
one step of each noise expert is run (of diffusers two steps at least) and three latent frames are decoded (by
diffusers all), once, timed and recorded together; the rest is extrapolated and marked so. Writes
profile_CASE.json, small enough to keep, after each case, and profile_CASE.html but for the toy. A case that
fails or has no time left does not stop the others. `--tiny` runs every line on the CPU, in shapes that prove
nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_report import free_memory
from benchmarks.profile_goals import MAX_PAGE, Goal, lines, overhead_goal, rounded, session_goals, slim
from benchmarks.profile_overhead import overhead
from benchmarks.profile_wan import CASES, Built, build, tiny, warm_ours, warm_theirs

import rushes
from rushes.profiling.bench.about import about
from rushes.profiling.ceilings import measure_ceilings
from rushes.profiling.clip import Ask
from rushes.profiling.page_writer import save_page
from rushes.profiling.report import Profile, to_json, write_text
from rushes.profiling.session import Options, Session, Taken, capture, finish, timed
from rushes.profiling.subject import Rushes
from rushes.profiling.trials import Ceilings

TOY = "toy"
TINY_TOY = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}
EXPECTED_S = {"ti2v-5b-704p": (25.0, 35.0), "a14b-480p": (30.0, 35.0), "a14b-720p": (60.0, 65.0)}
"""On an H200: of our part, the models' making included, and of diffusers' with ceilings and report."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """What all cases of a run share.

    Attributes:
        ceilings: what the device has reached so far; nothing is tried twice.
        built: models of the latest architecture, by the name of its rules.
        problems: of cases that failed or were skipped, by case.
        told: lines for the end.
    """

    asked: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    folder: Path
    begin_s: float = field(default_factory=time.perf_counter)
    ceilings: Ceilings = field(default_factory=Ceilings)
    built: dict[str, Built] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    goals: list[tuple[str, Goal]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Seconds of the budget not used yet."""
        return float(self.asked.seconds) - (time.perf_counter() - self.begin_s)

    def say(self, text: str) -> None:
        """Print what happens, and when."""
        print(f"[{time.perf_counter() - self.begin_s:6.1f} s] {text}", flush=True)

    def attempt(self, case: str, what: str, work: Callable[[], Any], *, expected_s: float = 0.0) -> Any:
        """What `work` returns; None when it fails or would end too late, of which the case's file tells."""
        if expected_s and expected_s > self.left_s:
            problem = f"{what}: skipped: takes about {expected_s:.0f} s, {self.left_s:.0f} s are left"
        else:
            self.say(f"{case}: {what}")
            try:
                return work()
            except Exception as error:  # whatever one part meets, the others are still wanted
                traceback.print_exc()
                problem = f"{what}: failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        self.say(f"{case}: {problem}")
        self.problems.setdefault(case, []).append(problem)
        return None

    def options(self, **changes: Any) -> Options:
        """Of a recording."""
        return replace(Options(ceiling_s=0.001 if self.asked.tiny else 0.05), **changes)


def wan_case(bench: Bench, name: str) -> None:
    """A Wan model, ours and diffusers', timed and recorded once."""
    case = tiny(CASES[name]) if bench.asked.tiny else CASES[name]
    if case.rules not in bench.built:
        bench.built.clear()
        free_memory()
        made = bench.attempt(name, "make the models", lambda: build(case, bench.device, bench.dtype))
        if made is None:
            return
        bench.built[case.rules] = made
    built, options = bench.built[case.rules], bench.options(is_short=True, is_once=True)
    expected = (0.0, 0.0) if bench.asked.tiny else EXPECTED_S[name]

    def ours() -> Taken:
        subject = built.ours(case)
        warm_ours(subject)
        return capture(subject, options, bench.say)

    def theirs() -> Taken:
        subject = built.diffusers(case)
        warm_theirs(subject, built.net)
        return capture(subject, options, bench.say)

    taken = []
    for what, work, expected_s in (("rushes", ours, expected[0]), ("diffusers", theirs, expected[1])):
        taken.append(bench.attempt(name, what, work, expected_s=expected_s))
        free_memory()
    report(bench, name, [each for each in taken if each is not None], options)


def toy_case(bench: Bench) -> None:
    """The embedded model, timed by itself and recorded by itself; and what profiling costs."""
    net = rushes.load(TOY, device=bench.device)
    fields = TINY_TOY if bench.asked.tiny else {}
    ask = Ask(prompt="a dog running in the park", fields={**fields, "seed": 7})
    options = bench.options(repeats=1 if bench.asked.tiny else 3)

    def ours() -> Taken:
        (subject,) = subjects = [Rushes(net=net, ask=ask)]
        (clips,) = timed(subjects, options, bench.say)
        return capture(subject, options, bench.say, clips)

    taken = bench.attempt(TOY, "rushes", ours)
    few = TINY_TOY if bench.asked.tiny else {"num_frames": 9, "num_inference_steps": 8}
    short = replace(ask, fields={**few, "seed": 7})
    pairs = 1 if bench.asked.tiny else bench.asked.pairs
    cost = bench.attempt(TOY, "what profiling costs", lambda: overhead(net, short, pairs))
    more = {} if cost is None else {"overhead": cost}
    if cost is not None:
        bench.goals.append((TOY, overhead_goal(cost)))
    note = "diffusers has no model with token experts, which the toy has"
    report(bench, TOY, [taken] if taken else [], options, {**more, "diffusers": note})


def report(
    bench: Bench, name: str, taken: Sequence[Taken], options: Options, more: dict[str, Any] | None = None
) -> None:
    """Hold everything against one set of ceilings; write the files; remember what to print at the end."""
    for each in taken:
        bench.attempt(name, f"{each.run.label}: ceilings", partial(_try_shapes, bench, each, options))
        free_memory()
    found = [
        bench.attempt(name, f"{each.run.label}: report", partial(finish, each, options, bench.ceilings))
        for each in taken
    ]
    sessions: list[Session] = [each for each in found if each is not None]
    goals = [goal for session in sessions for goal in session_goals(session)]
    bench.told.append(f"{name}:")
    if sessions:
        runs = tuple(session.run for session in sessions)
        profile = Profile(kind="against" if len(runs) > 1 else "run", about=_about(bench), runs=runs)
        if name != TOY:
            page = bench.folder / f"profile_{name}.html"
            bench.attempt(name, "page", lambda: save_page(profile, page))
            goals.append(Goal(name="bytes of the page", value=page.stat().st_size, bar=MAX_PAGE))
        bench.told.extend(lines(runs))
    bench.goals.extend((name, goal) for goal in goals)
    problems = bench.problems.get(name, [])
    kept = [goal.data() for case, goal in bench.goals if case == name]
    about_run = {**_about(bench), **(more or {}), "goals": kept, "problems": problems}
    _write(bench.folder / f"profile_{name}.json", about_run, profile if sessions else None)
    bench.told.extend(f"  problem: {problem}" for problem in problems)


def _try_shapes(bench: Bench, taken: Taken, options: Options) -> None:
    measure_ceilings(taken.calls, bench.device, budget_s=options.ceiling_s, known=bench.ceilings)


def _about(bench: Bench) -> dict[str, Any]:
    made = about(bench.device)
    asked = bench.asked
    return {
        **made,
        "commit": asked.commit or made["commit"],
        "command": ["python", "-m", "benchmarks.profile_gpu", *asked.arguments],
        "weights": "random, the toy's excepted",
        "dtype": str(bench.dtype),
        "tiny": asked.tiny,
    }


def _write(path: Path, about_run: dict[str, Any], profile: Profile | None) -> None:
    """As `rushes profile --compare` reads it, where anything was measured."""
    if profile is None:
        data: Any = {"about": about_run}
    else:
        data = json.loads(to_json(slim(replace(profile, about=about_run))))
    write_text(path, json.dumps(rounded(data), separators=(",", ":")) + "\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description="profiles of every model on one GPU, diffusers beside")
    parser.add_argument("--commit", default="", help="of the code, where git cannot tell")
    parser.add_argument(
        "--case", action="append", choices=[TOY, *EXPECTED_S], help="may be repeated; else all"
    )
    parser.add_argument("--pairs", type=int, default=16, help="clips with and without the profiler")
    parser.add_argument("--seconds", type=float, default=300.0, help="begin nothing that would end later")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    return parser.parse_args(given, argparse.Namespace(arguments=given))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases; 1 when something failed, was skipped or missed its goal."""
    asked = arguments(argv)
    bench = Bench(
        asked=asked,
        device=torch.device("cpu" if asked.tiny else "cuda"),
        dtype=torch.float32 if asked.tiny else torch.bfloat16,
        folder=Path(os.environ.get("OUT", "benchmarks/results")),
    )
    bench.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.case or [TOY, *EXPECTED_S]:
        work = partial(toy_case, bench) if name == TOY else partial(wan_case, bench, name)
        bench.attempt(name, "case", work)
    print("\n".join(["", *bench.told, "", "goals:"]))
    for name, goal in bench.goals:
        print(f"  {goal.line()} [{name}]")
    bench.say("done")
    return int(bool(bench.problems) or not all(goal.is_met for _, goal in bench.goals))


if __name__ == "__main__":
    sys.exit(main())
