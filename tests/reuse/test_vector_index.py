"""The index against its specification, on fresh random vectors each run."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import pytest

from rushes.reuse.index import VectorIndex, products
from rushes.reuse.plain_index import Neighbour, PlainIndex, Vectors

DIM = 96


@pytest.fixture
def random() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def unit(vectors: np.ndarray) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def sentences(random: np.random.Generator, count: int) -> Vectors:
    """Most of their length in few directions, and those turned."""
    turn, _ = np.linalg.qr(random.normal(size=(DIM, DIM)))
    return unit((random.normal(size=(count, DIM)) * np.exp(-np.arange(DIM) / 20)) @ turn + 0.05)


def isotropic(random: np.random.Generator, count: int) -> Vectors:
    return unit(random.normal(size=(count, DIM)))


def near_ties(random: np.random.Generator, count: int) -> Vectors:
    base = random.normal(size=DIM)
    return unit(base + 1e-5 * random.normal(size=(count, DIM)))


def duplicates(random: np.random.Generator, count: int) -> Vectors:
    return np.repeat(isotropic(random, -(-count // 50)), 50, axis=0)[:count]


MAKERS = [sentences, isotropic, near_ties, duplicates]


def check_alike(
    found: Sequence[Neighbour], right: Sequence[Neighbour], all_of_them: dict[int, float], at_least: float
) -> None:
    """Equal up to what float32 rounds: keys may only differ where their similarities do not."""
    assert len({one.key for one in found}) == len(found)
    near_edge = sum(abs(similarity - at_least) < 1e-6 for similarity in all_of_them.values())
    assert abs(len(found) - len(right)) <= near_edge
    for mine, theirs in zip(found, right, strict=False):
        assert mine.similarity == pytest.approx(theirs.similarity, abs=2e-6)
        assert mine.similarity == pytest.approx(all_of_them[mine.key], abs=2e-6)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("count", [1, 63, 65, 3000])
def test_it_finds_what_every_dot_product_finds(random: np.random.Generator, make: object, count: int) -> None:
    vectors = make(random, count)  # type: ignore[operator]
    fast, plain = VectorIndex(DIM), PlainIndex()
    keys = random.permutation(10 * count)[:count].tolist()
    for first in range(0, count, 700):
        some = slice(first, first + 700)
        fast.insert(keys[some], vectors[some])
        plain.insert(keys[some], vectors[some])
    queries = np.concatenate((vectors[random.integers(0, count, 5)], make(random, 5)))  # type: ignore[operator]
    for query in queries:
        for at_least, limit in ((-2.0, 1), (-2.0, 400), (0.9, 64), (0.999999, 3), (0.3, 10_000)):
            found = fast.nearest(query, at_least=at_least, limit=limit)
            right = plain.nearest(query, at_least=at_least, limit=limit)
            every = {one.key: one.similarity for one in plain.nearest(query, at_least=-2.0, limit=count)}
            check_alike(found, right, every, at_least)


def test_it_follows_inserts_and_removals(random: np.random.Generator) -> None:
    fast, plain = VectorIndex(DIM), PlainIndex()
    for _ in range(60):
        keys = random.integers(0, 4000, random.integers(1, 200))
        keys = np.unique(keys).tolist()
        if random.random() < 0.55:
            vectors = sentences(random, len(keys))
            fast.insert(keys, vectors)
            plain.insert(keys, vectors)
        else:
            assert [fast.remove(key) for key in keys] == [plain.remove(key) for key in keys]
        assert len(fast) == len(plain)
        query = sentences(random, 1)[0]
        found = fast.nearest(query, at_least=-2.0, limit=20)
        right = plain.nearest(query, at_least=-2.0, limit=20)
        every = {one.key: one.similarity for one in plain.nearest(query, at_least=-2.0, limit=10_000)}
        check_alike(found, right, every, -2.0)


def test_equal_vectors_come_by_key(random: np.random.Generator) -> None:
    index = VectorIndex(DIM)
    (vector,) = isotropic(random, 1)
    for key in (7, 3, 9, 1):
        index.insert([key], vector[None])
    assert [one.key for one in index.nearest(vector, at_least=0.9, limit=3)] == [1, 3, 7]


def test_memory_is_flat_under_inserts_and_removals(random: np.random.Generator) -> None:
    index = VectorIndex(DIM)
    vectors = sentences(random, 500)
    sizes = []
    for turn in range(200):
        index.insert(range(turn * 500, turn * 500 + 500), vectors)
        for key in range((turn - 1) * 500, turn * 500):
            index.remove(key)
        sizes.append(index.nbytes)
    assert len(index) == 500
    assert sizes[-1] <= sizes[2]
    for key in range(199 * 500, 200 * 500):
        index.remove(key)
    assert index.nbytes <= 2 * 64 * (DIM + 3) * 4
    assert index.nearest(vectors[0], at_least=-2.0, limit=5) == []


def test_products_are_those_of_numpy(random: np.random.Generator) -> None:
    for rows, dim in ((0, 32), (1, 384), (255, 32), (257, 32), (1000, 352), (3, 20_000)):
        matrix = random.normal(size=(rows, dim)).astype(np.float32)
        vector = random.normal(size=dim).astype(np.float32)
        np.testing.assert_allclose(products(matrix, vector), matrix @ vector, rtol=1e-4, atol=1e-3)
