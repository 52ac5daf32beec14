"""Keys, what they used, what they are to be told, and batches: one SQLite file that gateways share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rushes.stores.accounts_schema import ACCOUNTS
from rushes.stores.api_keys import ApiKeys
from rushes.stores.batches import Batches
from rushes.stores.charges import Charges
from rushes.stores.deliveries import Deliveries
from rushes.stores.sqlite_database import MEMORY, Database

ACCOUNTS_FILE = "accounts.sqlite"
"""In the store's folder, beside the jobs."""

TIMEOUT_S = 10.0


class AccountStore:
    """One transaction a method; safe for threads, forks and processes.

    Args:
        path: the file, made when it is missing, readable by its owner only; or ":memory:".
        timeout_s: how long a method waits for another process's transaction.

    Raises:
        StoreError: from every method of its parts too: path and cause in one line; nothing is changed then.

    Example:
        >>> accounts = AccountStore(":memory:")
        >>> key, secret = accounts.keys.create("ci", tenant="acme")
        >>> accounts.keys.find(secret).tenant
        'acme'
        >>> accounts.close()
    """

    def __init__(self, path: str | Path, *, timeout_s: float = TIMEOUT_S) -> None:
        if str(path) != MEMORY:
            _make_private(Path(path))
        self._database = Database(path, ACCOUNTS, timeout_s=timeout_s)
        self.keys = ApiKeys(self._database)
        self.charges = Charges(self._database)
        self.deliveries = Deliveries(self._database)
        self.batches = Batches(self._database)

    def close(self) -> None:
        self._database.close()


def _make_private(path: Path) -> None:
    """SQLite gives the files beside it the same mode. One that exists must not be opened here: closing it
    again would drop the locks that this process has on it."""
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
