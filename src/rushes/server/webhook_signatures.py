"""Signatures of webhooks, as Standard Webhooks has them (https://www.standardwebhooks.com, version 1)."""

from __future__ import annotations

import base64
import hashlib
import hmac

_MARK = "whsec_"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: `v1,` and HMAC-SHA256 over id, timestamp and body, in base64.

    Example:
        >>> signature("whsec_c2VjcmV0", "msg_1", 1_700_000_000, b"{}")
        'v1,A5oIrJxXPB/PkULSoVu0e4khvPiqpF9vljmhkSKg0FI='
    """
    key = base64.b64decode(secret.removeprefix(_MARK))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
