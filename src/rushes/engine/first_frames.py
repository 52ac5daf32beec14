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
        if found is None:
            return None
        file = io.BytesIO(artefacts.read(found)) if found.path is None else str(found.path)
    except (RushesError, OSError) as error:
        log.warning("job %s: its first frames are not there: %s", record.id, error)
        return None
    return _decoded(record, file, num_frames)


def _decoded(record: JobRecord, file: io.BytesIO | str, num_frames: int) -> NDArray[np.uint8] | None:
    import av

    video = record.request.video
    frames = np.empty((num_frames, video.height, video.width, 3), np.uint8)
    num = 0
    try:
        with av.open(file) as container:
            for frame in container.decode(video=0):
                if num == num_frames or (frame.height, frame.width) != (video.height, video.width):
                    break
                frames[num] = frame.to_ndarray(format="rgb24")
                num += 1
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        log.warning("job %s: its video cannot be read: %s", record.id, error)
        return None
    return frames if num == num_frames else None
