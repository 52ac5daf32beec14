"""Figures of a long run: printed as they come, and kept in one JSON file that is whole after every figure."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


class Report:
    """Runs the parts of a benchmark one by one; a part that fails or has no time left does not stop the rest.

    Args:
        file: where the JSON goes; its folder is made.
        about: what the figures belong to.
        budget_s: no part begins that is expected to end later than this.
    """

    def __init__(self, file: Path, about: Mapping[str, Any], budget_s: float) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._budget_s = budget_s
        self._begin = time.perf_counter()
        self._figures: dict[str, Any] = {}
        self.content: dict[str, Any] = {**about, "parts": {}}

    @property
    def left_s(self) -> float:
        """Seconds of the budget not used yet."""
        return self._budget_s - (time.perf_counter() - self._begin)

    def part(self, name: str, run: Callable[[Report], None], *, expected_s: float) -> None:
        """Run one part; its figures, seconds and status (done, failed or skipped, and why) are kept."""
        part: dict[str, Any] = {"status": "running", "figures": {}}
        self.content["parts"][name] = part
        self._figures = part["figures"]
        begin = time.perf_counter()
        print(f"[{name}]", flush=True)
        if self.left_s < expected_s:
            part["status"] = f"skipped: takes about {expected_s:.0f} s, {self.left_s:.0f} s are left"
        else:
            part["status"] = self._status(part, run)
        part["seconds"] = round(time.perf_counter() - begin, 2)
        free_memory()
        self._write()
        print(f"  {part['status']} ({part['seconds']} s)", flush=True)

    def skip(self, name: str) -> None:
        """Note a part that was not asked for."""
        self.content["parts"][name] = {"status": "skipped: as asked", "figures": {}, "seconds": 0.0}
        self._write()

    def add(self, name: str, value: Any, unit: str = "") -> None:
        """Keep one figure of the part that runs. Numbers are kept to 6 digits; a unit joins the name."""
        value = float(f"{value:.6g}") if isinstance(value, float) else value
        label = f"{name} [{unit}]" if unit else name
        self._figures[label] = value
        print(f"  {label}: {value}", flush=True)
        self._write()

    def attempt(self, name: str, measure: Callable[[], object]) -> None:
        """Let `measure` add its figures; if it cannot, keep under `name` why."""
        try:
            measure()
        except Exception as error:  # whatever it is, the other figures of the part are still wanted
            self.add(name, f"failed: {_one_line(error)}")

    def figure(self, part: str, label: str) -> Any:
        """A figure kept before, None if there is none."""
        return self.content["parts"].get(part, {}).get("figures", {}).get(label)

    @property
    def has_failed(self) -> bool:
        """Whether a part could not be run to its end."""
        return any(part["status"].startswith("failed") for part in self.content["parts"].values())

    def _status(self, part: dict[str, Any], run: Callable[[Report], None]) -> str:
        try:
            run(self)
        except Exception as error:  # whatever one part meets, the others go on
            part["traceback"] = traceback.format_exc().splitlines()
            return f"failed: {_one_line(error)}"
        return "done"

    def _write(self) -> None:
        self._file.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")

    def print_table(self) -> None:
        """Every part and figure on one line each."""
        print(f"\n{self.content['gpu']}, torch {self.content['torch']}, commit {self.content['commit']}")
        for name, part in self.content["parts"].items():
            print(f"{name}: {part['status']} ({part['seconds']} s)")
            for label, value in part["figures"].items():
                print(f"  {label:58} {value}")


Part = Callable[[Report], None]


def part_arguments(
    description: str, names: Sequence[str], seconds: float, argv: Sequence[str] | None
) -> argparse.Namespace:
    """The command line of a benchmark that is made of parts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--commit", default="unknown", help="of the code, kept with the figures")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--skip", action="append", default=[], choices=names, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=seconds, help="begin nothing that would end later")
    return parser.parse_args(argv)


def run_parts(
    name: str, asked: argparse.Namespace, about: Mapping[str, Any], parts: Mapping[str, tuple[Part, float]]
) -> int:
    """Run the parts in order into `$OUT/<name>.json`, print the table; 1 when one of them failed.

    Args:
        asked: of `part_arguments`.
        parts: each with the seconds that it is expected to take; none are asked of tiny shapes.
    """
    file = Path(os.environ.get("OUT", "benchmarks/results")) / f"{name}.json"
    report = Report(file, about, asked.seconds)
    for part, (run, expected_s) in parts.items():
        if part in asked.skip:
            report.skip(part)
        else:
            report.part(part, run, expected_s=0.0 if asked.tiny else expected_s)
    report.print_table()
    return int(report.has_failed)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def about_machine(device: torch.device) -> dict[str, Any]:
    """Name of the device, driver and library versions."""
    is_cuda = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if is_cuda else "none (CPU)",
        "driver": _driver() if is_cuda else "none",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"


def free_memory() -> None:
    """Give back what the part before held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize(device: torch.device) -> None:
    """Wait for the device, if it is one that runs behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device) -> float:
    """Most memory held by tensors since the last call, in 1e9 bytes; 0 on the CPU, where it is not known."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Time of one call, by events of the device where it has them."""
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
