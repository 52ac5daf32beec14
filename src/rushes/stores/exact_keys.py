"""Exact keys name the model that they are for, so that a store can tell when another one made the clip.

A key is `{model}-{digest}`; one without a dash is for whatever model there is.
"""

from __future__ import annotations

import hashlib

_MODEL_DIGITS = 16


def key_for(identity: str, digest: str) -> str:
    """A key for a clip by the model of this identity."""
    return f"{_model(identity)}-{digest}"


def derived_key(key: str, purpose: str) -> str:
    """Another key for the same model.

    Example:
        >>> derived_key("0123456789abcdef-77", "latent").partition("-")[0]
        '0123456789abcdef'
    """
    model, dash, _ = key.rpartition("-")
    return model + dash + hashlib.sha256(f"{purpose} {key}".encode()).hexdigest()


def is_for(key: str, identity: str) -> bool:
    """Whether a clip by the model of this identity may be kept under the key."""
    model, dash, _ = key.rpartition("-")
    return not dash or model == _model(identity)


def _model(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:_MODEL_DIGITS]
