"""What a profile found, as data: what tables, pages, comparisons and files read. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes.errors import InvalidRequest
from rushes.profiling.decode import DecodeError, decode
from rushes.profiling.output import plain, write_json

FORMAT = "rushes-profile"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the stage table. Rows add up to the whole; shares follow from them.

    Attributes:
        units: of the whole clip: forwards, steps, latent frames, writes.
        measured: how many of them were run; fewer than `units` means that the rest is extrapolated.
        seconds: wall time of the whole clip's units.
        device_s: of `seconds`, while the device worked for this row; None where no unit was captured.
        captured: units that `device_s` was measured on.
        unit_s: of the single units that were run, at most `MAX_SAMPLES`.
        repeats: `seconds` in every repeat of the run.
        ideal_s: what a device that runs every operator at its ceiling would take; None without a capture.
        flops: floating-point operations; a multiply-add is 2.
    """

    stage: str
    part: str
    units: int
    measured: int
    seconds: float
    device_s: float | None
    captured: int
    unit_s: tuple[float, ...]
    repeats: tuple[float, ...]
    ideal_s: float | None
    flops: float | None

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.stage}: {self.part}"

    @property
    def around_s(self) -> float | None:
        """Of `seconds`, what passed around the device: Python, launches, waiting, copies on the host."""
        return None if self.device_s is None else self.seconds - self.device_s


MAX_SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Most memory held on the device during a stage, weights included."""

    stage: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What this device reaches at best, measured in the same run.

    Attributes:
        resource: gemm, attention, conv (operations a second) or copy (bytes a second, read and written).
        how: the shape and kernel that reached it.
    """

    resource: str
    dtype: str
    rate: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A row of the operator table, for the whole clip.

    Attributes:
        seconds: on the device. Operators of a stage add up to its `device_s`.
        num_bytes: read and written, each tensor once.
        resource: which ceiling it is held against.
        ideal_s: at the ceiling of each of its calls.
    """

    stage: str
    kind: str
    calls: int
    seconds: float
    flops: float
    num_bytes: float
    resource: str
    ideal_s: float

    @property
    def share_of_ceiling(self) -> float:
        """How much of what the device can do it does; above 1 where a cache is faster than memory."""
        return self.ideal_s / self.seconds if self.seconds else 0.0

    @property
    def rate(self) -> float:
        """Achieved: bytes a second for "copy", operations a second for the others."""
        work = self.num_bytes if self.resource == "copy" else self.flops
        return work / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawOp:
    """One operator (on a CPU) or kernel (on a GPU) in one place, for the whole clip.

    Attributes:
        where: the module that called it, block numbers as `*`.
        line: the Python line that called it; empty without `--stacks`.
        host_s: that the host spent in it.
    """

    name: str
    stage: str
    kind: str
    where: str
    line: str
    calls: int
    device_s: float
    host_s: float
    flops: float
    num_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that costs time which the device does not need.

    Attributes:
        category: host, sync, launches, kernel, layout, operator, fusion or copies.
        subject: what it is about: a row, an operator, a line.
        text: one or two sentences.
        saving_s: of the whole clip, about; savings of several findings may overlap.
    """

    category: str
    stage: str
    subject: str
    text: str
    saving_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span of the waterfall, seconds since the run began."""

    name: str
    stage: str
    depth: int
    start_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flame:
    """A node of the flame graph: device seconds of the whole clip, those of its children included."""

    name: str
    seconds: float
    children: tuple[Flame, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One configuration, profiled.

    Attributes:
        label: what tells it from the other runs of a profile.
        is_short: a few units of each kind were run and the rest extrapolated.
        total_s: from before the request was checked until the file was complete: the sum of the rows.
        totals: in every repeat.
        ideal_s: of everything captured; None without a capture.
        explained: share of the device's time that the operator table names.
        sort: how `raw` is ordered.
    """

    label: str
    model: str
    request: dict[str, Any]
    is_short: bool
    total_s: float
    totals: tuple[float, ...]
    rows: tuple[Row, ...]
    peaks: tuple[Peak, ...]
    ceilings: tuple[Ceiling, ...] = ()
    operators: tuple[Operator, ...] = ()
    raw: tuple[RawOp, ...] = ()
    findings: tuple[Finding, ...] = ()
    bars: tuple[Bar, ...] = ()
    flame: Flame | None = None
    ideal_s: float | None = None
    explained: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def device_s(self) -> float:
        """That the device worked, as far as captured."""
        return sum(row.device_s or 0.0 for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the time of something grows with the size of the clip: seconds ~ size ** exponent.

    Attributes:
        error: standard error of the exponent; 0 for two points.
        seconds: at every value of the sweep.
    """

    stage: str
    name: str
    exponent: float
    error: float
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One field at several values; `runs` of the profile are in this order.

    Attributes:
        size_name: what `sizes` counts: tokens where the field is a size of the clip, else the field itself.
        peak_bytes: highest peak of any stage.
    """

    field: str
    values: tuple[float, ...]
    size_name: str
    sizes: tuple[float, ...]
    growths: tuple[Growth, ...]
    peak_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything one call of the profiler found.

    Attributes:
        kind: "run", "tries" (the first run is the baseline), "against" (the second is diffusers), "sweep" or
            "comparison" (two files).
        about: versions, device, commit.
    """

    kind: str
    about: dict[str, Any]
    runs: tuple[Run, ...]
    sweep: Sweep | None = None


def to_json(profile: Profile) -> dict[str, Any]:
    """The profile as plain data."""
    return {"format": FORMAT, "version": VERSION, **plain(profile)}


def save(profile: Profile, path: Path) -> None:
    """Write it as JSON. Raises `OutputError`."""
    write_json(path, to_json(profile))


def read(path: Path) -> Profile:
    """A profile from a file that `save` wrote.

    Raises:
        InvalidRequest: with the path and what is wrong with it, in one line.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise _unreadable(path, f"is not JSON ({error})") from error
    return _checked(path, raw)


def _checked(path: Path, raw: object) -> Profile:
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise _unreadable(path, "is not a profile; `rushes profile -o x.json` writes one")
    if raw.get("version") != VERSION:
        raise _unreadable(path, f"is a profile of version {raw.get('version')!r}; this is version {VERSION}")
    try:
        profile = decode(Profile, {k: v for k, v in raw.items() if k not in ("format", "version")})
    except DecodeError as error:
        raise _unreadable(path, f"is a damaged profile: {error}") from error
    if not profile.runs:
        raise _unreadable(path, "is a profile without a run")
    return profile


def _unreadable(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest("profile", f"{path}: {reason}")
