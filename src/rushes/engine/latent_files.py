"""Files of latents that clips go on from, by name, and masks. No torch: a gateway writes masks.

A snapshot is `{job}.{step}.latents.safetensors`, a mask `{digest}.mask.npy`; both lie in `Workplace.latents`.
"""

from __future__ import annotations

import io
from hashlib import blake2b
from typing import TYPE_CHECKING

from rushes.errors import ResumeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SNAPSHOT_ENDING, MASK_ENDING = ".latents.safetensors", ".mask.npy"


def snapshot_name(job_id: str, step: int) -> str:
    """Of the latents of a job before a solver step."""
    return f"{job_id}.{step}{SNAPSHOT_ENDING}"


def job_of(name: str) -> str | None:
    """The job whose snapshot has this name; None for another file.

    Example:
        >>> job_of(snapshot_name("0f3a", 12))
        '0f3a'
    """
    return name.split(".", 1)[0] if name.endswith(SNAPSHOT_ENDING) else None


def mask_file(mask: NDArray[np.floating]) -> tuple[str, bytes]:
    """Name and bytes of a mask: where a clip may change, 0 .. 1, for each latent: [h, w] or [T, h, w]."""
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(mask, np.float32), allow_pickle=False)
    data = stream.getvalue()
    return blake2b(data, digest_size=16).hexdigest() + MASK_ENDING, data


def read_mask(data: bytes) -> NDArray[np.float32]:
    """The mask in a file's bytes. Raises `ResumeError` when there is none."""
    import numpy as np

    try:
        mask = np.load(io.BytesIO(data), allow_pickle=False)
        return np.asarray(mask, np.float32)
    except (ValueError, EOFError, OSError, TypeError, KeyError) as error:
        raise ResumeError(f"no mask: {error}") from error
