"""The files of a finished job. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rushes.stores.base import JobRecord
from rushes.stores.disk import BlobFolder

Variant = Literal["video", "thumbnail", "spritesheet", "preview"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file; `path` where it lies in a folder, `url` where it lies behind one."""

    name: str
    size: int
    media_type: str
    etag: str
    path: Path | None = None
    url: str | None = None


class Artefacts:
    """What a job has."""

    def __init__(self, results: BlobFolder) -> None:
        self._results = results

    def find(self, record: JobRecord, variant: Variant) -> Artefact | None:
        """None where there is none."""
        if record.result is None or variant != "video":
            return None
        path = self._results.path(record.result)
        if not path.exists():
            return None
        return Artefact(
            name=record.result,
            size=path.stat().st_size,
            media_type="video/mp4",
            etag=path.stem,
            path=path,
        )
