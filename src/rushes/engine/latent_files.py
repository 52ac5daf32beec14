"""Files of latents that clips go on from, by name, and masks. No torch: a gateway writes masks.

A snapshot is `{job}.{step}.latents.safetensors`, a clip's finished latents, which an edit with a mask keeps
outside of it, `{job}.final.safetensors`, a mask `{digest}.mask.npy`; all lie in `Workplace.latents`.
"""

from __future__ import annotations

import io
from hashlib import blake2b
from typing import TYPE_CHECKING

from rushes.errors import ResumeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SNAPSHOT_ENDING, FINAL_ENDING, MASK_ENDING = ".latents.safetensors", ".final.safetensors", ".mask.npy"
_LEVELS = 255


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


def finished_name(job_id: str) -> str:
    """Of the finished latents of a job."""
    return job_id + FINAL_ENDING


def owner_of(name: str) -> str | None:
    """The job with which a file goes; None for a mask, which many edits may share.

    Example:
        >>> owner_of(finished_name("0f3a")), owner_of(snapshot_name("0f3a", 12)), owner_of("ab.mask.npy")
        ('0f3a', '0f3a', None)
    """
    return name.removesuffix(FINAL_ENDING) if name.endswith(FINAL_ENDING) else job_of(name)


def names_of(job_id: str, num_steps: int) -> tuple[str, ...]:
    """All names that the files of a job of so many solver steps can have, whoever wrote them.

    Example:
        >>> names_of("0f3a", 2)
        ('0f3a.final.safetensors', '0f3a.0.latents.safetensors', '0f3a.1.latents.safetensors')
    """
    return (finished_name(job_id), *(snapshot_name(job_id, step) for step in range(num_steps)))


def mask_file(mask: NDArray[np.floating]) -> tuple[str, bytes]:
    """Name and bytes of a mask: where a clip may change, 0 .. 1 in 255 levels, for each latent: [h, w] or
    [T, h, w]."""
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.rint(np.ascontiguousarray(mask) * _LEVELS).astype(np.uint8), allow_pickle=False)
    data = stream.getvalue()
    return blake2b(data, digest_size=16).hexdigest() + MASK_ENDING, data


def num_leading(mask: NDArray[np.floating]) -> int:
    """Latent frames before the first one that may change; 0 for a mask [h, w], which is for all of them.

    Example:
        >>> import numpy as np
        >>> num_leading(np.reshape([0, 0, 1, 0], (4, 1, 1))), num_leading(np.zeros((1, 1)))
        (2, 0)
    """
    if mask.ndim < 3:
        return 0
    changes = mask.any(axis=(1, 2))
    return int(changes.argmax()) if changes.any() else len(mask)


def read_mask(data: bytes) -> NDArray[np.float32]:
    """The mask in a file's bytes. Raises `ResumeError` when there is none."""
    import numpy as np

    try:
        mask = np.load(io.BytesIO(data), allow_pickle=False)
        if mask.dtype != np.uint8:
            raise ValueError(f"its values are {mask.dtype}")
        return np.asarray(mask, np.float32) / np.float32(_LEVELS)
    except (ValueError, EOFError, OSError, TypeError, KeyError) as error:
        raise ResumeError(f"no mask: {error}") from error
