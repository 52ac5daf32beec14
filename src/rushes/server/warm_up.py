"""Warm-up: requests of a file, made in the batch lane before anybody asks for them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rushes.errors import ConfigError, QueueFull, RushesError, StoreError
from rushes.server.auth import LOCAL
from rushes.server.gateway import Gateway
from rushes.server.wishes import Wish
from rushes.types import JobOptions

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two tries of what could not be asked for yet."""

LONGEST_WAIT_S = 60.0
"""Tries get rarer while nothing can be asked for."""

_OURS = ("priority", "deadline_s", "cache")
"""Fields that a line cannot set: it is made in the batch lane, whenever there is time."""

_OWN_KEY = "\twarm "
"""Idempotency keys that begin so no client can have: it is not printable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRequest:
    """A line of the file.

    Attributes:
        where: file and line, for messages.
        body: fields as `POST /v1/videos` takes them.
    """

    where: str
    body: Mapping[str, Any]


def read_warm_file(file: Path) -> tuple[WarmRequest, ...]:
    """A request a line: a prompt, which is made with seed 0, or a JSON object of a request's fields. Empty
    lines and those that begin with `#` are none.

    Raises:
        ConfigError: the file cannot be read, or a line is neither.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"warm: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"warm: {file}: is not UTF-8: {error}") from error
    return tuple(
        WarmRequest(where=f"{file}:{number}", body=_body(f"{file}:{number}", line.strip()))
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    )


class WarmUp:
    """A thread that queues what is not cached, once a worker is there to say what its clips would be. A
    context manager. Several gateways with one file, and one that starts again, queue each request once.

    Args:
        requests: in the order in which they are queued.
        tenant: whose cache is warmed; the jobs are that tenant's, and nobody is charged for them.

    Attributes:
        num_queued: of them, so far.
        num_known: that were cached or asked for already.
    """

    def __init__(self, gateway: Gateway, requests: Sequence[WarmRequest], tenant: str) -> None:
        self._gateway, self._requests = gateway, tuple(requests)
        self._caller = replace(LOCAL, tenant=tenant)
        self.num_queued = self.num_known = 0
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)

    def __enter__(self) -> WarmUp:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()

    def _run(self) -> None:
        pending, wait_s = list(self._requests), LOOK_S
        while pending and not self._stops.is_set():
            left: list[WarmRequest] = []
            for number, each in enumerate(pending):
                try:
                    if not self._ask(each):
                        left.append(each)
                except (QueueFull, StoreError) as error:  # the rest would find the same
                    left += pending[number:]
                    log.info("warm-up waits: %s", error)
                    break
                except RushesError as error:
                    log.warning("%s: is left out: %s", each.where, error)
                except Exception:  # one line's bug is not the others'
                    log.exception("%s: is left out", each.where)
            wait_s = LOOK_S if len(left) < len(pending) else min(LONGEST_WAIT_S, 2 * wait_s)
            pending = left
            if pending:
                self._stops.wait(wait_s)
        log.info("warm-up: %d queued, %d were known", self.num_queued, self.num_known)

    def _ask(self, each: WarmRequest) -> bool:
        """Whether it is settled; False where no worker is there yet, or two that make different clips."""
        gateway, tenant = self._gateway, self._caller.tenant
        if not gateway.serving():
            return False
        request, _ = gateway.ask({"seed": 0, **each.body}, tenant=tenant)
        if not gateway.serving(request.pipeline):
            return False
        plan = gateway.reuse.plan(request, self._caller, Wish(level="exact"))
        if plan.key is None:
            return False
        gateway.disown_lost(plan, tenant)
        options = JobOptions(lane="batch", tenant=tenant, idempotency_key=_OWN_KEY + plan.key)
        is_made = gateway.place.jobs.made_as(tenant, plan.key) is not None
        while (earlier := gateway.client.earlier(request, options)) is not None:
            if earlier.status in ("queued", "running"):
                break
            if earlier.status == "completed" and is_made:
                break
            # It failed, or its file is gone: made once more, under the next key of its own.
            options = replace(options, idempotency_key=f"{_OWN_KEY}{plan.key} {earlier.id}")
        if earlier is not None or is_made:
            self.num_known += 1
            return True
        promise = gateway.client.promise(request, options)
        gateway.client.create(request, options, promise, exact_key=plan.key, reuse=plan.text)
        self.num_queued += 1
        return True


def _body(where: str, line: str) -> Mapping[str, Any]:
    if not line.startswith("{"):
        return {"prompt": line}
    try:
        body = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"warm: {where}: is not JSON: {error}") from error
    for name in _OURS:
        if name in body:
            raise ConfigError(f"warm: {where}: {name} cannot be set: lines are made in the batch lane")
    if not isinstance(body.get("prompt"), str):
        raise ConfigError(f"warm: {where}: has no prompt: the text that describes the video")
    return dict(body)
