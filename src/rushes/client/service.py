"""A service, from Python: `rushes.Client`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from rushes.client.clips import Clip
from rushes.client.connection import Connection
from rushes.errors import ConfigError, InvalidRequest

TIMEOUT_S = 30.0
PAGE = 100


class Client:
    """Makes clips on a service; a context manager. Calls that a lost connection interrupts are made again, up
    to a few seconds, and never make a clip twice.

    Args:
        url: such as `http://127.0.0.1:8000`.
        key: an API key; None for a service without keys.
        timeout_s: of silence, before a connection counts as lost.

    Raises:
        RushesError: from every call, the service's own error as the library's class: `InvalidRequest` with
            its field, `QueueFull` with `retry_after_s`, `Unauthenticated`, ...; `ServiceError` where the
            service stays away.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url: must begin with http:// or https://, got {url!r}")
        if key is not None and not (key and key.isascii() and key.isprintable()):
            raise ConfigError("key: must be printable ASCII characters")  # which ones is a secret
        self.url = url.rstrip("/")
        self._connection = Connection(url, key, timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of open connections."""
        self._connection.close()

    def create(self, prompt: str, *, idempotency_key: str | None = None, **fields: Any) -> Clip:
        """Queue a clip.

        Args:
            idempotency_key: the same key and fields again is the same clip; by default a new one.
            fields: of a request, see docs/service.md: `width`, `num_frames`, `seed`, `model`, `priority`, ...
        """
        body = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return self._clip(self._connection.json("POST", "/v1/videos", json=body, headers=headers))

    def remix(
        self,
        clip_id: str,
        prompt: str,
        *,
        mask: bytes | str | Path | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Clip:
        """Queue an edit of a completed clip: it goes on from that clip's latents with another prompt, where
        they were kept; the new clip's `video["cache"]` says so.

        Args:
            mask: a PNG of the clip's aspect, as bytes or a file's name: white changes, black stays.
            idempotency_key: as in `create`.
            fields: `strength`, the noise level in 0..1 at which it is taken up; `preset`, with whose
                settings, "own" for the clip's; `mask_frames`, such as "16-32"; `seed`; ...

        Raises:
            InvalidRequest: among other things, the mask's file cannot be read.
        """
        body = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
        if mask is not None:
            body["mask"] = base64.b64encode(mask if isinstance(mask, bytes) else _read(mask)).decode()
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        path = f"/v1/videos/{_name(clip_id)}/remix"
        return self._clip(self._connection.json("POST", path, json=body, headers=headers))

    def get(self, clip_id: str) -> Clip:
        """One clip. Raises `UnknownJob`."""
        return self._clip(self._connection.json("GET", f"/v1/videos/{_name(clip_id)}"))

    def list(self, *, limit: int | None = None, oldest_first: bool = False) -> Iterator[Clip]:
        """The tenant's clips, newest first, all of them unless `limit` says how many."""
        num, after = 0, None
        while limit is None or num < limit:
            size = PAGE if limit is None else min(PAGE, limit - num)
            page = self._page("/v1/videos", size, after, order="asc" if oldest_first else "desc")
            for video in page["data"]:
                yield self._clip(video)
            num, after = num + len(page["data"]), page["last_id"]
            if not page["has_more"]:
                return

    def delete(self, clip_id: str) -> None:
        """Take a clip away with everything made of it; a running one is cancelled first."""
        self._connection.json("DELETE", f"/v1/videos/{_name(clip_id)}")

    def models(self) -> Sequence[Mapping[str, Any]]:
        """What may be asked for, the default one first, with fields, presets and sizes."""
        return list(self._connection.json("GET", "/v1/models")["data"])

    def usage(self, *, days: int = 30) -> Sequence[Mapping[str, Any]]:
        """GPU-seconds by key and day."""
        return list(self._connection.json("GET", "/v1/usage", params={"days": days})["data"])

    def estimate_batch(
        self, template: str, rows: Sequence[Mapping[str, Any]], **fields: Any
    ) -> Mapping[str, Any]:
        """What `create_batch` would take: `total`, `predicted_s`, `eta_s`; every row is checked."""
        body = {**_batch_body(template, rows, fields), "estimate": True}
        return self._connection.json("POST", "/v1/batches", json=body)

    def create_batch(
        self,
        template: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Mapping[str, Any]:
        """Queue a clip for each row, whose columns fill the template's `{name}`s or are fields. Raises
        `InvalidRequest` with row and field, and has queued nothing then."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        body = _batch_body(template, rows, fields)
        return self._connection.json("POST", "/v1/batches", json=body, headers=headers)

    def batch(self, batch_id: str, *, after: int = 0, limit: int = PAGE) -> Mapping[str, Any]:
        """How a batch stands, and a page of its `rows` behind number `after`. Raises `UnknownBatch`."""
        return self._page(f"/v1/batches/{_name(batch_id)}", limit, after)

    def cancel_batch(self, batch_id: str) -> Mapping[str, Any]:
        """Queue no more of it, and cancel what has not ended."""
        return self._connection.json("POST", f"/v1/batches/{_name(batch_id)}/cancel")

    def _clip(self, video: Mapping[str, Any]) -> Clip:
        return Clip(self._connection, video)

    def _page(self, path: str, limit: int, after: object, **more: str) -> dict[str, Any]:
        params = {"limit": limit, **more, **({} if after is None else {"after": after})}
        return self._connection.json("GET", path, params=params)


def _batch_body(
    template: str, rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
) -> dict[str, Any]:
    given = {name: value for name, value in fields.items() if value is not None}
    return {"template": template, "rows": [dict(row) for row in rows], **given}


def _read(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequest("mask", f"{file}: {error.strerror}") from error


def _name(text: str) -> str:
    """An id as a part of a path, whatever is in it."""
    return quote(text, safe="") or "-"
