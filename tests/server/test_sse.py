"""Blocks of an event stream: together what comes together, comments while nothing does."""

from __future__ import annotations

import asyncio

import pytest

from rushes.server.sse import MOST_TOGETHER, PING, blocks


def run(source, **options) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [piece async for piece in blocks(source, lambda number: b"%d;" % number, **options)]

    return asyncio.run(collect())


async def numbers(count: int, *, pause_s: float | None = None):
    for number in range(count):
        if pause_s is not None:
            await asyncio.sleep(pause_s)
        yield number


def test_what_is_there_at_once_is_one_piece_up_to_a_bound():
    pieces = run(numbers(3 * MOST_TOGETHER + 1))
    assert b"".join(pieces) == b"".join(b"%d;" % number for number in range(3 * MOST_TOGETHER + 1))
    assert len(pieces) == 4
    assert max(piece.count(b";") for piece in pieces) == MOST_TOGETHER


def test_comments_while_nothing_comes():
    pieces = run(numbers(2, pause_s=0.2), ping_s=0.05)
    assert [piece for piece in pieces if piece != PING] == [b"0;", b"1;"]
    assert PING in pieces
    assert run(numbers(0)) == []


def test_an_error_comes_behind_what_was_there_before_it():
    async def failing():
        yield 1
        raise ValueError("no more")

    async def collect() -> None:
        async for piece in blocks(failing(), lambda number: b"%d;" % number):
            seen.append(piece)

    seen: list[bytes] = []
    with pytest.raises(ValueError, match="no more"):
        asyncio.run(collect())
    assert seen == [b"1;"]


def test_who_leaves_closes_the_source_and_who_reads_nothing_holds_it():
    taken, is_closed = [], []

    async def endless():
        try:
            while True:
                taken.append(len(taken))
                yield taken[-1]
        finally:
            is_closed.append(True)

    async def read_one() -> None:
        reader = blocks(endless(), lambda number: b"%d;" % number)
        await anext(reader)
        await asyncio.sleep(0.05)
        assert len(taken) <= 2 * MOST_TOGETHER + 1
        await reader.aclose()

    asyncio.run(read_one())
    assert is_closed == [True]
