"""What keys used, by day: the same rows for the command and the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rushes.server.auth import Caller
from rushes.stores.accounts import AccountStore
from rushes.stores.charges import KEEP_USAGE_DAYS, DayUsage
from rushes.types import Json

DEFAULT_DAYS = 30
MOST_DAYS = KEEP_USAGE_DAYS


def usage_for(
    accounts: AccountStore,
    caller: Caller,
    *,
    days: int = DEFAULT_DAYS,
    clock: Callable[[], float] = time.time,
) -> Sequence[DayUsage]:
    """The last `days` days in UTC, latest first: of the keys of the caller's tenant, of all for an admin.

    Raises:
        Forbidden: without `usage:read`.
    """
    caller.require("usage:read")
    tenant = None if caller.is_admin else caller.tenant
    return accounts.charges.by_day(days=days, now=clock(), tenant=tenant)


def usage_json(usage: DayUsage) -> dict[str, Json]:
    """One row: `object`, and the names of `DayUsage`."""
    return {"object": "usage", **asdict(usage)}
