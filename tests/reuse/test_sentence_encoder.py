"""The sentence encoder: MiniLM in int8 without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rushes.reuse.encoder import DIM, SentenceEncoder


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(encoder: SentenceEncoder) -> None:
    sentences = ["a dog runs", "", "a very long prompt " * 200, "naïve café 日本語 🐕"]
    together = encoder.encode(sentences)
    assert together.dtype == np.float32
    assert together.shape == (4, DIM)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for sentence, vector in zip(sentences, together, strict=True):
        assert (encoder.encode([sentence])[0] == vector).all()
    assert encoder.encode([]).shape == (0, DIM)


@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    # Of the float32 model: what int8 may be away from it is small beside what is decided by it.
    [
        ("a ball moves from left to right", "a ball moves from right to left", 0.997),
        ("a man hugs a woman in the rain", "a woman hugs a man in the rain", 0.982),
        ("two dogs", "three dogs", 0.767),
        ("a red car", "a blue car", 0.673),
    ],
)
def test_it_is_minilm(encoder: SentenceEncoder, one: str, other: str, cosine: float) -> None:
    first, second = encoder.encode([one, other])
    assert float(first @ second) == pytest.approx(cosine, abs=0.12)


def test_case_does_not_count(encoder: SentenceEncoder) -> None:
    first, second = encoder.encode(["A Dog Runs", "a dog runs"])
    assert (first == second).all()


def test_neither_making_nor_using_it_loads_torch() -> None:
    code = """if True:
        import sys
        from rushes.reuse.encoder import SentenceEncoder
        from rushes.reuse.keys import exact_key
        from rushes.reuse.latent_cache import LatentCache
        assert "onnxruntime" not in sys.modules
        SentenceEncoder().encode(["a dog"])
        sys.exit("torch" in sys.modules)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = """if True:
        import sys
        sys.modules["onnxruntime"] = None  # what an import of a missing package finds
        from rushes.errors import ConfigError
        from rushes.reuse.encoder import SentenceEncoder
        try:
            SentenceEncoder().encode(["a dog"])
        except ConfigError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "onnxruntime" in result.stdout, result.stderr
    assert "rushes[reuse]" in result.stdout
