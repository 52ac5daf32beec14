"""The first frames of a finished video, for an edit that leaves them as they are. No torch here."""

from __future__ import annotations

import io
import logging

import numpy as np
from numpy.typing import NDArray

from rushes.engine.artefacts import Artefacts
from rushes.errors import RushesError
from rushes.stores.base import JobRecord

log = logging.getLogger(__name__)


def first_frames(artefacts: Artefacts, record: JobRecord, num_frames: int) -> NDArray[np.uint8] | None:
    """uint8 [num_frames, H, W, 3] as they were encoded; None where they cannot be had: whoever asked for them
    decodes latents instead."""
    try:
        found = artefacts.find(record)
        file = None if found is None else io.BytesIO(artefacts.read(found))
    except (RushesError, OSError) as error:
        log.warning("job %s: its first frames are not there: %s", record.id, error)
        return None
    return None if file is None else _decoded(record, file, num_frames)


def _decoded(record: JobRecord, file: io.BytesIO, num_frames: int) -> NDArray[np.uint8] | None:
    import av

    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(file) as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == num_frames:
                    break
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        log.warning("job %s: its video cannot be read: %s", record.id, error)
        return None
    video = record.request.video
    found = np.stack(frames) if frames else None
    is_whole = found is not None and found.shape == (num_frames, video.height, video.width, 3)
    return found if is_whole else None
