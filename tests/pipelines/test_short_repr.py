"""The beginning of a value's repr, without the rest of it."""

from __future__ import annotations

import time

import pytest

from rushes.pipelines.fields import short_repr

VALUES = [
    None,
    True,
    -7,
    1.5,
    "it's",
    b"\x00",
    (1, 2),
    [],
    {},
    [1, "a", None, [[], {}]],
    {"a": {"b": [1.0, {"c": None}]}, 3: ()},
    list(range(100)),
    500 * "ab",
    {n: [n] for n in range(100)},
    [[["x" * 300]]],
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_it_is_that_of_the_whole_value(value: object) -> None:
    whole = repr(value)
    for most in (10, 60, 200, 5_000):
        expected = whole if len(whole) <= most else whole[: most - 3] + "..."
        assert short_repr(value, most) == expected


def test_it_takes_no_longer_for_a_larger_value() -> None:
    values: tuple[object, ...] = (1_000_000 * [[1]], {"a": "x" * 10_000_000}, 10_000_000 * b"\n")
    begin = time.process_time()
    for _ in range(10):
        for value in values:
            assert len(short_repr(value, 200)) == 200
    assert time.process_time() - begin < 0.1
