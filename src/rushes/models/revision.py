"""A name for what lies in files, from samples of them: weights are too large to be read for their name."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from rushes.errors import CheckpointError

NUM_SAMPLES = 64
SAMPLE_BYTES = 16_384


def revision(files: Iterable[Path]) -> str:
    """Equal for equal files, wherever they lie; of a file of more than 1 MiB, name, size and samples count.

    Training moves every matrix and so is seen; an edit of a few numbers in a large file may not be.
    Raises `CheckpointError` for a file that cannot be read.
    """
    digest = blake2b(digest_size=16)
    for file in sorted(files):
        try:
            _add(digest, file)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _add(digest: blake2b, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name}\0{size}\0".encode())
    with file.open("rb") as stream:
        if size <= NUM_SAMPLES * SAMPLE_BYTES:
            digest.update(stream.read())
            return
        for i in range(NUM_SAMPLES):  # the first holds the header's beginning, the last the file's end
            stream.seek((size - SAMPLE_BYTES) * i // (NUM_SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
