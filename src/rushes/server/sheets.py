"""Two clips compared by their sheets of frames, for audits: no torch, no video decoder.

It sees that a clip shows another place, not that a small thing in it has another colour or goes another way:
docs/reuse.md has its errors. `rushes.server.audits.Compare` is the hook for a judge that does.
"""

from __future__ import annotations

import io
import logging
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rushes.engine.artefacts import Artefacts
from rushes.engine.stills import COLUMNS, NUM_FRAMES
from rushes.stores.base import JobRecord

log = logging.getLogger(__name__)

LEAST_LIKENESS_DB = 13.0
"""Of 14 pairs of clips of one meaning and two seeds one is less alike: `benchmarks.reuse_audits`."""

_PEAK = 255.0
_LEAST_ERROR = 1e-3


class SheetComparison:
    """A `rushes.server.audits.Compare`.

    Args:
        artefacts: where the clips' sheets are.
        least_db: PSNR of the sheets below which the clips show different things.
    """

    def __init__(self, artefacts: Artefacts, least_db: float = LEAST_LIKENESS_DB) -> None:
        self._artefacts, self._least_db = artefacts, least_db

    def __call__(self, hit: JobRecord, anew: JobRecord) -> str:
        """ "same" or "different"; "unknown" where a sheet is missing. Raises `StoreError`."""
        sheets = [self._sheet(record) for record in (hit, anew)]
        if sheets[0] is None or sheets[1] is None:
            return "unknown"
        likeness = likeness_db(sheets[0], sheets[1], hit.request.video.num_frames)
        if likeness is None or math.isnan(likeness):
            return "unknown"
        if likeness >= self._least_db:
            return "same"
        log.warning(
            "job %s was made from latents of another clip, and anew, as %s, it looks otherwise: PSNR %.1f dB",
            hit.id,
            anew.id,
            likeness,
        )
        return "different"

    def _sheet(self, record: JobRecord) -> bytes | None:
        found = self._artefacts.find(record, "spritesheet")
        return None if found is None else self._artefacts.read(found)


def likeness_db(first: bytes, second: bytes, num_frames: int) -> float | None:
    """PSNR between the frames of two sheets of clips of `num_frames`; None where they are of two sizes, or
    no pictures."""
    shown = min(num_frames, NUM_FRAMES)
    one, other = _frames(first, shown), _frames(second, shown)
    if one is None or other is None or one.shape != other.shape:
        return None
    error = float(np.mean(np.square(one - other)))
    return 10 * math.log10(_PEAK**2 / max(error, _LEAST_ERROR))


def _frames(sheet: bytes, shown: int) -> NDArray[np.float32] | None:
    """[shown, H, W, 3]: without the black rest of the last row."""
    try:
        with Image.open(io.BytesIO(sheet), formats=("WEBP",)) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32)
    except (OSError, SyntaxError, ValueError):
        return None
    columns = min(COLUMNS, shown)
    rows = -(-shown // columns)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    if (rows * height, columns * width) != pixels.shape[:2]:
        return None
    cells = pixels.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return cells.reshape(-1, height, width, 3)[:shown]
