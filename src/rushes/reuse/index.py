"""Exact search for the nearest vectors, in one matrix product and a look at the few that it leaves.

Vectors are kept rotated so that their first dimensions hold most of their length. For those the products are
computed; of the rest Cauchy and Schwarz say how much it can add at most: the product of two lengths. Only
vectors that may still be near enough, and nearer than the best found, are looked at whole, so nothing is
missed. The rotation is that of a sample's second moments (principal directions without centring).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rushes.reuse.plain_index import Neighbour, Vectors

HEAD = 32
"""Dimensions whose products are always computed. Of MiniLM's 384 they hold half of the squared length, and
at a cosine of 0.92 they leave one vector in a thousand to be looked at whole."""

_LEAST_ROWS = 64
_LEAST_FIT = 1024
_SAMPLE = 2048
_BLOCK = 256
_GAIN = 0.9
"""Rows are rotated anew when the share of length that the head misses falls to this much of what it is."""

_ROUNDING = 2e-5
"""More than float32 can be wrong by in a product of two vectors of length 1."""

_ONE_THREAD = 8192
"""Elements of a matrix up to which OpenBLAS multiplies it with a vector on the calling thread (its limit is
2304 * 4)."""

Rows = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


class VectorIndex:
    """Vectors of length 1 by key. Not safe for threads.

    Memory follows the number of vectors, within a factor of four, whatever was inserted and removed before.
    An insert now and then takes long: when the arrays grow, and when it is checked whether another rotation
    is better.

    Args:
        dim: of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self._dim, self._head = dim, min(HEAD, dim)
        self._basis: Vectors = np.eye(dim, dtype=np.float32)
        self._directions = self._basis.T.copy()
        self._count = self._since_fit = 0
        self._row_of: dict[int, int] = {}
        self._heads: Vectors = np.empty((_LEAST_ROWS, self._head), np.float32)
        self._tails: Vectors = np.empty((_LEAST_ROWS, dim - self._head), np.float32)
        self._lengths: Vectors = np.empty(_LEAST_ROWS, np.float32)
        self._keys: Rows = np.empty(_LEAST_ROWS, np.int64)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        return sum(one.nbytes for one in (self._heads, self._tails, self._lengths, self._keys))

    def insert(self, keys: Sequence[int], vectors: Vectors) -> None:
        """Args: vectors: float32 [n, D]; a key that is there gets the new vector."""
        for key in keys:
            self.remove(key)
        first, count = self._count, self._count + len(keys)
        if count > len(self._keys):
            self._resize(max(count, 3 * len(self._keys) // 2))
        self._write(first, np.asarray(vectors, np.float32) @ self._basis)
        self._keys[first:count] = keys
        self._row_of.update(zip(keys, range(first, count), strict=True))
        self._count, self._since_fit = count, self._since_fit + len(keys)
        if self._since_fit >= max(_LEAST_FIT, self._count // 2):
            self._fit()

    def remove(self, key: int) -> bool:
        """Whether it was there."""
        row = self._row_of.pop(key, None)
        if row is None:
            return False
        last = self._count = self._count - 1
        if row != last:
            for array in (self._heads, self._tails, self._lengths, self._keys):
                array[row] = array[last]
            self._row_of[int(self._keys[row])] = row
        if last < len(self._keys) // 4 and len(self._keys) > _LEAST_ROWS:
            self._resize(max(len(self._keys) // 2, _LEAST_ROWS))
        return True

    def nearest(self, vector: Vectors, *, at_least: float, limit: int) -> Sequence[Neighbour]:
        """The nearest first, of equal ones the lower key; none below `at_least`, `limit` at most."""
        rotated = products(self._directions, np.asarray(vector, np.float32))
        head, tail = rotated[: self._head], rotated[self._head :]
        known = products(self._heads[: self._count], head)
        bounds = self._lengths[: self._count] * (np.linalg.norm(tail) + _ROUNDING)
        bounds += known
        rows = np.flatnonzero(bounds >= at_least - _ROUNDING)
        rows, similarities = self._best(rows, bounds, known, tail, at_least, limit)
        found = [
            Neighbour(key=key, similarity=similarity)
            for key, similarity in zip(self._keys[rows].tolist(), similarities.tolist(), strict=True)
            if similarity >= at_least
        ]
        return sorted(found, key=lambda one: (-round(one.similarity, 6), one.key))[:limit]

    def _best(
        self, rows: Rows, bounds: Vectors, known: Vectors, tail: Vectors, at_least: float, limit: int
    ) -> tuple[Rows, Vectors]:
        """Rows among which the nearest are, and their similarities. Those of the highest bounds are looked at
        first, twice as many each time, until the others' bounds are below what was found."""
        best = np.zeros(0, np.int64)
        scores = np.zeros(0, np.float32)
        size, floor = max(_BLOCK, limit), at_least
        while len(rows):
            if len(rows) > size:
                order = np.argpartition(bounds[rows], -size)
                block, rows = rows[order[-size:]], rows[order[:-size]]
            else:
                block, rows = rows, rows[:0]
            best = np.concatenate((best, block))
            scores = np.concatenate((scores, known[block] + products(self._tails[block], tail)))
            if len(best) > limit:
                floor = max(floor, float(np.partition(scores, -limit)[-limit]))
                kept = scores >= floor - _ROUNDING
                best, scores = best[kept], scores[kept]
            rows, size = rows[bounds[rows] >= floor - _ROUNDING], 2 * size
        return best, scores

    def _write(self, first: int, rotated: Vectors) -> None:
        rows = slice(first, first + len(rotated))
        self._heads[rows] = rotated[:, : self._head]
        self._tails[rows] = rotated[:, self._head :]
        self._lengths[rows] = np.linalg.norm(rotated[:, self._head :], axis=1)

    def _whole(self, rows: Rows) -> Vectors:
        return np.concatenate((self._heads[rows], self._tails[rows]), axis=1)

    def _resize(self, num_rows: int) -> None:
        tail = self._dim - self._head
        self._heads = _resized(self._heads, (num_rows, self._head), self._count)
        self._tails = _resized(self._tails, (num_rows, tail), self._count)
        self._lengths = _resized(self._lengths, (num_rows,), self._count)
        self._keys = _resized(self._keys, (num_rows,), self._count)

    def _fit(self) -> None:
        """Rotate again where that helps: towards the main directions of an even sample."""
        self._since_fit = 0
        rows = np.linspace(0, self._count - 1, min(self._count, _SAMPLE)).astype(np.int64)
        sample = self._whole(rows)
        _, directions = np.linalg.eigh(sample.T @ sample)
        turn = np.ascontiguousarray(directions[:, ::-1], np.float32)
        missed = float(np.square(self._lengths[rows]).sum())
        if float(np.square(sample @ turn[:, self._head :]).sum()) > _GAIN * missed:
            return
        for first in range(0, self._count, _SAMPLE):
            rows_here = slice(first, min(first + _SAMPLE, self._count))
            self._write(
                first, np.concatenate((self._heads[rows_here], self._tails[rows_here]), axis=1) @ turn
            )
        self._basis = self._basis @ turn
        self._directions = self._basis.T.copy()


def _resized(array: NDArray[Number], shape: tuple[int, ...], kept: int) -> NDArray[Number]:
    larger = np.empty(shape, array.dtype)
    larger[:kept] = array[:kept]
    return larger


def products(matrix: Vectors, vector: Vectors) -> Vectors:
    """`matrix @ vector`, in pieces that BLAS does not share out among threads.

    Beside a busy gateway on two cores the threads of one product wait for each other for longer than the
    product takes: 100,000 x 32 took 8 to 16 ms in one piece and 1.6 ms in pieces (0.4 and 1.2 ms on idle
    cores).
    """
    count, dim = matrix.shape
    rows = max(1, _ONE_THREAD // dim)
    whole = count - count % rows
    found = np.empty(count, np.float32)
    pieces = matrix[:whole].reshape(-1, rows, dim)
    np.matmul(pieces, vector, out=found[:whole].reshape(-1, rows))
    np.matmul(matrix[whole:], vector, out=found[whole:])
    return found
