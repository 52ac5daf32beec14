"""`GET /v1/usage`."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from rushes.server.auth import Caller
from rushes.server.usage import DEFAULT_DAYS, MOST_DAYS, usage_for, usage_json
from rushes.stores.accounts import AccountStore

# No `from __future__ import annotations`: FastAPI reads the annotations of a route inside a function.


class UsageRow(BaseModel):
    """Device seconds of one key's jobs of one day (UTC); `key` is the key's name."""

    object: str = "usage"
    key_id: str
    key: str | None
    tenant: str
    day: str
    num_jobs: int
    predicted_s: float
    actual_s: float


class UsageList(BaseModel):
    """Latest day first."""

    object: str = "list"
    data: list[UsageRow]


def usage_router(accounts: AccountStore, caller: Callable[..., Any]) -> APIRouter:
    """Args:
    caller: the dependency that gives the `Caller` of a request.
    """
    router = APIRouter()

    @router.get("/v1/usage", response_model=UsageList, tags=["usage"])
    def usage(
        caller: Annotated[Caller, Depends(caller)],
        days: Annotated[int, Query(ge=1, le=MOST_DAYS)] = DEFAULT_DAYS,
    ) -> dict[str, Any]:
        """Predicted and actual GPU-seconds by key and day: of the caller's tenant, of all for an admin."""
        return {"data": [usage_json(row) for row in usage_for(accounts, caller, days=days)]}

    return router
