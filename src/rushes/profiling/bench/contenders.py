"""Contenders by name: Rushes and its peers, each of which says what it lacks before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rushes.errors import ConfigError
from rushes.profiling.bench.base import Contender, Place
from rushes.registry import Registry

OURS = "rushes"

PEERS = Registry(
    "peer",
    {
        "diffusers": "rushes.profiling.bench.diffusers_peers:DIFFUSERS",
        "diffusers-compile": "rushes.profiling.bench.diffusers_peers:COMPILED",
        "diffusers-fp8": "rushes.profiling.bench.diffusers_peers:FP8",
        "diffusers-cache-dit": "rushes.profiling.bench.diffusers_peers:CACHE_DIT",
    },
    group="rushes.peers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A rival that runs the same checkpoint folder.

    Attributes:
        title: one line for lists.
        missing: what it lacks to run there, None for nothing; imports nothing heavy where it can.
        open: loads it. Called when nothing is missing.
    """

    title: str
    missing: Callable[[Place], str | None]
    open: Callable[[Place], Contender]


def check_peer(name: str, place: Place) -> None:
    """Raises `UnknownName`, or `ConfigError` that says what the peer lacks."""
    peer: Peer = PEERS.load(name)
    reason = peer.missing(place)
    if reason is not None:
        raise ConfigError(f"peer {name}: {reason}")


def open_contender(name: str, place: Place) -> Contender:
    """Load "rushes" or a peer. Raises as `check_peer` and `rushes.load` do."""
    if name == OURS:
        from rushes.profiling.bench.ours import open_rushes

        return open_rushes(place)
    check_peer(name, place)
    peer: Peer = PEERS.load(name)
    return peer.open(place)
