"""The parts that look latents up, as the settings ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rushes.engine.workplace import Workplace
from rushes.reuse.eviction import Bounds
from rushes.server.latent_reuse import LatentReuse
from rushes.server.settings import ServerSettings
from rushes.server.snapshots import deleter


@contextmanager
def opened_latents(place: Workplace, settings: ServerSettings) -> Iterator[LatentReuse | None]:
    """Over the store's folder; None where latents are not to be looked up.

    Raises:
        ConfigError: a package that the encoder needs is missing.
        StoreError: the index cannot be opened.
    """
    if settings.latent_reuse == "off":
        yield None
        return
    from rushes.reuse.encoder import SentenceEncoder
    from rushes.reuse.guard import differs
    from rushes.reuse.latent_cache import LatentCache
    from rushes.reuse.store import REUSE_FILE, ReuseStore

    encoder = SentenceEncoder()
    encoder.encode(["ready"])  # so that what is missing is said now, and the first request need not load it
    bounds = bounds_of(settings)
    store = ReuseStore(place.folder / REUSE_FILE, policy_name=settings.reuse_policy, bounds=bounds)
    cache = LatentCache(store, differs=differs, on_evicted=deleter(place.latents))
    try:
        yield LatentReuse(cache, encoder, place.latents)
    finally:
        cache.close()


def bounds_of(settings: ServerSettings) -> Bounds:
    """How much is kept of all tenants and of each: none pushes out what all others have."""
    of_each = settings.reuse_tenant_gb
    if of_each is None:
        of_each = settings.reuse_gb / 2 if settings.has_auth else settings.reuse_gb
    return Bounds(max_bytes=int(settings.reuse_gb * 1e9), tenant_bytes=int(of_each * 1e9))
