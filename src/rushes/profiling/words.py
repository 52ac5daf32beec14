"""Numbers as a reader wants them. No torch here."""

from __future__ import annotations

_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SCALE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def seconds(value: float) -> str:
    """Three digits with a fitting unit.

    Example:
        >>> seconds(12.345), seconds(0.0123), seconds(0)
        ('12.3 s', '12.3 ms', '0 s')
    """
    for unit, name in _TIME:
        if abs(value) >= unit:
            return f"{_digits(value / unit)} {name}"
    return "0 s" if abs(value) < 1e-9 else f"{value * 1e6:.2f} µs"


def percent(share: float) -> str:
    """A share in percent, with a decimal below ten.

    Example:
        >>> percent(0.314), percent(0.0123)
        ('31 %', '1.2 %')
    """
    value = 100 * share
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def amount(value: float, unit: str) -> str:
    """Three digits with a prefix of a thousand.

    Example:
        >>> amount(1.678e15, "FLOP"), amount(512, "B")
        ('1.68 PFLOP', '512 B')
    """
    for scale, prefix in _SCALE:
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {prefix}{unit}"
    return f"{_digits(value)} {unit}"


def rate(value: float, resource: str) -> str:
    """A rate in the unit of its resource: bytes for copies, operations for the rest."""
    return amount(value, "B/s" if resource == "copy" else "FLOP/s")


def _digits(value: float) -> str:
    size = abs(value)
    return (
        f"{value:.0f}" if size >= 99.95 or value == 0 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    )
