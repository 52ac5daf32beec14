"""The parts that look latents up, as the settings ask for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError
from rushes.pipelines.rules import RULES, load_rules
from rushes.reuse.eviction import Bounds
from rushes.reuse.synonym_files import read_synonyms
from rushes.reuse.synonyms import NO_SYNONYMS, Synonyms
from rushes.server.latent_reuse import LatentReuse
from rushes.server.settings import ServerSettings
from rushes.server.snapshots import deleter

log = logging.getLogger(__name__)


@contextmanager
def opened_latents(place: Workplace, settings: ServerSettings) -> Iterator[LatentReuse | None]:
    """Over the store's folder; None where latents are not to be looked up.

    Raises:
        ConfigError: a package that the encoder needs is missing, or the list of equal words is no list.
        StoreError: the index cannot be opened.
    """
    if settings.latent_reuse == "off":
        yield None
        return
    from rushes.reuse.encoder import SentenceEncoder
    from rushes.reuse.guard import differs
    from rushes.reuse.latent_cache import LatentCache
    from rushes.reuse.store import REUSE_FILE, ReuseStore

    synonyms = synonyms_by_pipeline(settings.reuse_synonyms)
    encoder = SentenceEncoder()
    encoder.encode(["ready"])  # so that what is missing is said now, and the first request need not load it
    bounds = bounds_of(settings)
    store = ReuseStore(place.folder / REUSE_FILE, policy_name=settings.reuse_policy, bounds=bounds)
    latents = LatentCache(store, differs=differs, on_evicted=deleter(place.latents))
    try:
        yield LatentReuse(
            latents,
            encoder,
            place.latents,
            seeded_sigma=settings.reuse_seed_sigma,
            synonyms=synonyms,
        )
    finally:
        latents.close()


def bounds_of(settings: ServerSettings) -> Bounds:
    """How much is kept of all tenants and of each: none pushes out what all others have."""
    of_each = settings.reuse_tenant_gb
    if of_each is None:
        of_each = settings.reuse_gb / 2 if settings.has_auth else settings.reuse_gb
    return Bounds(max_bytes=int(settings.reuse_gb * 1e9), tenant_bytes=int(of_each * 1e9))


def synonyms_by_pipeline(file: Path | None) -> Callable[[str], Synonyms]:
    """The list of each pipeline: of the file where it is for it, else what the model brings.

    Raises:
        ConfigError: the file is no list, or for a model that there is none of.
    """
    given = NO_SYNONYMS if file is None else read_synonyms(file)
    for name in sorted(given.models):
        if name not in RULES.names():
            choices = ", ".join(RULES.names())
            raise ConfigError(f"{file}: models: there is no {name!r}; choose from {choices}")

    @cache
    def of(pipeline: str) -> Synonyms:
        if file is not None and (not given.models or pipeline in given.models):
            return given
        own = load_rules(pipeline).synonyms
        try:
            return NO_SYNONYMS if own is None else read_synonyms(own)
        except ConfigError as error:  # of a request, which is made anew where it could have gone on
            log.warning("prompts for %s are compared as they are: %s", pipeline, error)
            return NO_SYNONYMS

    return of
