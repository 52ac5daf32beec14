"""revision: equal for equal files; a change anywhere that training makes changes it."""

import pytest
import torch
from safetensors.torch import save_file

from rushes.errors import CheckpointError
from rushes.models.revision import NUM_SAMPLES, SAMPLE_BYTES, revision


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(1024, 512, generator=generator) for name in "abcd"}  # 8 MiB


def test_equal_files_have_one_revision_wherever_they_lie(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_file(weights(1), tmp_path / name / "x.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert revision(one) == revision(two) == revision(reversed(one))


def test_other_weights_of_the_same_shapes_have_another(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(weights(1), file)
    before = revision([file])
    assert file.stat().st_size > NUM_SAMPLES * SAMPLE_BYTES
    save_file({**weights(1), "c": weights(2)["c"]}, file)
    assert revision([file]) != before


@pytest.mark.parametrize("at", [0, 8, 500, -1])
def test_both_ends_of_a_large_file_count_and_every_byte_of_a_small_one(tmp_path, at):
    for size in (1000, 3 * NUM_SAMPLES * SAMPLE_BYTES):
        file = tmp_path / "x"
        content = bytearray(size)
        file.write_bytes(content)
        before = revision([file])
        content[at] ^= 1
        file.write_bytes(content)
        assert revision([file]) != before


def test_a_name_or_a_size_alone_makes_another(tmp_path):
    for name, size in (("a", 5), ("b", 5), ("a2", 6)):
        (tmp_path / name).write_bytes(bytes(size))
    assert len({revision([file]) for file in tmp_path.iterdir()}) == 3
    assert revision([]) == revision([])


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        revision([tmp_path / "nowhere"])
