"""What each second of the benchmark means: defined here and nowhere else; reports and docs print these texts.

All are wall-clock seconds of a clock that never goes back, on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {
        "cold_start_s": "From starting a process to its being ready: interpreter and imports, those that "
        "loading asks for included (import_s), the weights of every part on the device (load_s), and a clip "
        "of the measured size with the fewest steps that run every network, which compiles what is compiled "
        "on first use (first_run_s).",
        "first_preview_s": "From handing a request over to the first preview, in pixels, at the client.",
        "first_frame_s": "From handing a request over to the first frame that a client has decoded from "
        "nothing but the bytes of the mp4 that had reached it by then.",
        "end_to_end_s": "From handing a prompt over to the last byte of the finished mp4 at the client; "
        "afterwards, and outside of this time, the whole file is decoded and its frames are counted.",
        "stages_s": "Of one clip, by stage. Each stage waits for the device before another one begins, so "
        "that none is charged another's time; video_encode is the time inside the mp4 writer.",
        "other_s": "end_to_end_s less the sum of the stages: what lies between them.",
        "queued_s": "Under load, from the moment a request was due to the beginning of its first unit of "
        "work.",
        "latency under load": "first_preview_s, first_frame_s and end_to_end_s under load count from the "
        "moment a request was due by its Poisson schedule, which waits for nobody: a submission that comes "
        "late because the machine is busy counts against the machine.",
        "ratio": "Of a pair: the rival's seconds over ours for the same request, one right after the other.",
    }
)
"""By field name; the texts are the definitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSeconds:
    """What one clip took. See `DEFINITIONS`.

    Attributes:
        first_preview_s: None where there was no preview.
        num_bytes: of the mp4.
    """

    first_preview_s: float | None
    first_frame_s: float
    end_to_end_s: float
    stages_s: Mapping[str, float] = field(default_factory=dict)
    num_bytes: int

    @property
    def other_s(self) -> float:
        """See `DEFINITIONS`."""
        return self.end_to_end_s - sum(self.stages_s.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """What a fresh process took to be ready, and the most memory that it held by then.

    Attributes:
        peak_host_bytes: resident memory of the process.
        peak_device_bytes: allocated on the CUDA device; None on a CPU, where there is only the host's.
    """

    import_s: float
    load_s: float
    first_run_s: float
    peak_host_bytes: int
    peak_device_bytes: int | None

    @property
    def cold_start_s(self) -> float:
        """See `DEFINITIONS`."""
        return self.import_s + self.load_s + self.first_run_s
