"""`rushes keys`: who may ask the service, and for how much."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rushes.cli.workplace import store_option
from rushes.stores.api_keys import DEFAULT_SCOPES, SCOPES

if TYPE_CHECKING:
    from rushes.stores.accounts import AccountStore
    from rushes.stores.api_keys import ApiKey

COLUMNS = ("key", "begins", "name", "tenant", "scopes", "limits", "webhook", "expires", "state")
DAY_S = 24 * 3600.0

json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")


@contextmanager
def opened(store: Path, *, is_new: bool = False) -> Iterator[AccountStore]:
    """The accounts of a store. Raises `click.UsageError` where there are none, unless they may be made."""
    from rushes.errors import ConfigError
    from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore

    path = store / ACCOUNTS_FILE
    if is_new:
        try:
            store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{store}: cannot be made ({error.strerror})") from error
    elif not path.is_file():
        raise click.UsageError(f"{store}: there are no keys; rushes keys create makes one")
    accounts = AccountStore(path)
    try:
        yield accounts
    finally:
        accounts.close()


@click.group(short_help="Make, list, rotate and revoke API keys.")
def keys() -> None:
    """API keys of the service over a store."""


@keys.command(short_help="Make a key.")
@click.argument("name", default="key")
@store_option
@click.option("--tenant", default="default", show_default=True, help="whose jobs it makes and sees")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=DEFAULT_SCOPES,
    show_default=True,
    help="what it may do; repeatable",
)
@click.option("--expires-days", type=click.FloatRange(0, min_open=True), help="days until it is good no more")
@click.option("--rpm", type=click.IntRange(1), help="requests a minute")
@click.option("--jobs", type=click.IntRange(1), help="jobs queued or running at once")
@click.option(
    "--gpu-seconds-a-day", type=click.FloatRange(0, min_open=True), help="as predicted, a day in UTC"
)
@click.option("--webhook", metavar="URL", help="where the ends of its jobs are told")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, secrets included")
def create(
    name: str,
    store: Path,
    tenant: str,
    scopes: tuple[str, ...],
    expires_days: float | None,
    rpm: int | None,
    jobs: int | None,
    gpu_seconds_a_day: float | None,
    webhook: str | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and print its secret, which cannot be shown again. A limit that is not given is
    none."""
    from rushes.server.webhook_targets import check_webhook_url
    from rushes.stores.api_keys import KeyLimits

    if webhook is not None:
        check_webhook_url(webhook)
    limits = KeyLimits(requests_per_minute=rpm, concurrent_jobs=jobs, gpu_seconds_per_day=gpu_seconds_a_day)
    expires_at = None if expires_days is None else time.time() + expires_days * DAY_S
    with opened(store, is_new=True) as accounts:
        key, secret = accounts.keys.create(
            name, tenant=tenant, scopes=scopes, limits=limits, expires_at=expires_at, webhook_url=webhook
        )
    _show_secret(key, secret, store, as_json=as_json, with_webhook=True)


@keys.command("list", short_help="List keys.")
@store_option
@click.option("--tenant")
@json_option
def list_(store: Path, tenant: str | None, as_json: bool) -> None:
    """List the keys of a store, oldest first, by how their secrets begin."""
    from rushes.cli.tables import print_table

    with opened(store) as accounts:
        found = accounts.keys.list(tenant=tenant)
    if as_json:
        for key in found:
            click.echo(json.dumps(_as_json(key)))
        return
    print_table(COLUMNS, [_row(key, time.time()) for key in found])


@keys.command(short_help="Revoke a key for good.")
@click.argument("key_id")
@store_option
def revoke(key_id: str, store: Path) -> None:
    """Revoke the key KEY_ID. Gateways hear of it within seconds; its jobs go on."""
    with opened(store) as accounts:
        accounts.keys.revoke(key_id)
    click.echo("revoked")


@keys.command(short_help="Give a key a new secret.")
@click.argument("key_id")
@store_option
@click.option(
    "--grace-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="how long the old secret is good beside the new one",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, the secret included")
def rotate(key_id: str, store: Path, grace_hours: float, as_json: bool) -> None:
    """Give the key KEY_ID a new secret and print it; limits, tenant and webhook stay."""
    with opened(store) as accounts:
        key, secret = accounts.keys.rotate(key_id, grace_s=grace_hours * 3600)
    _show_secret(key, secret, store, as_json=as_json, with_webhook=False)


def _show_secret(key: ApiKey, secret: str, store: Path, *, as_json: bool, with_webhook: bool) -> None:
    """On stdout the secret alone, so that a script can take it; or JSON."""
    webhook_secret = key.webhook.secret if with_webhook and key.webhook is not None else None
    if as_json:
        secrets = {"secret": secret} | ({"webhook_secret": webhook_secret} if webhook_secret else {})
        click.echo(json.dumps({**_as_json(key), **secrets}))
        return
    click.echo(f"rushes: {key.id} of tenant {key.tenant} in {store}; this is shown once:", err=True)
    click.echo(secret)
    if webhook_secret:
        click.echo(f"rushes: its webhooks are signed with {webhook_secret}", err=True)


def _as_json(key: ApiKey) -> dict[str, object]:
    limits = key.limits
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "requests_per_minute": limits.requests_per_minute,
        "concurrent_jobs": limits.concurrent_jobs,
        "gpu_seconds_per_day": limits.gpu_seconds_per_day,
        "webhook": None if key.webhook is None else key.webhook.url,
    }


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    limits = key.limits
    named = (
        (limits.requests_per_minute, "requests/min"),
        (limits.concurrent_jobs, "jobs"),
        (limits.gpu_seconds_per_day, "GPU-s/day"),
    )
    expires = "" if key.expires_at is None else time.strftime("%Y-%m-%d", time.gmtime(key.expires_at))
    has_expired = key.expires_at is not None and key.expires_at <= now
    return (
        key.id,
        key.prefix + "…",
        key.name,
        key.tenant,
        " ".join(sorted(key.scopes)),
        ", ".join(f"{value:g} {unit}" for value, unit in named if value is not None),
        "" if key.webhook is None else key.webhook.url,
        expires,
        "revoked" if key.revoked_at is not None else "expired" if has_expired else "good",
    )
