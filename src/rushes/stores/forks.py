"""What a forked child must not take over from its parent: locks that other threads held, open sockets."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something that a child begins anew with."""

    def renew(self) -> None:
        """Forget what belongs to the process that this one was forked from."""


_LIVE: WeakSet[Renewable] = WeakSet()


def renew_in_children(one: Renewable) -> None:
    """Have `one` renewed in every process that is forked while it lives."""
    _LIVE.add(one)


def _renew_all() -> None:
    for one in list(_LIVE):
        one.renew()


os.register_at_fork(after_in_child=_renew_all)
