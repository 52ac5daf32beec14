"""`rushes serve` and `rushes gateway`: the service on one machine, and its front alone."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from rushes.cli.generate import rules_of
from rushes.cli.observe import check_installed
from rushes.cli.options import device_options
from rushes.cli.plans import plan_option
from rushes.cli.workplace import keep_gb_option
from rushes.errors import InvalidRequest

LEVELS = ("debug", "info", "warning", "error")

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def gateway_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of `ServerSettings`; what is not given is left to the environment and the file."""
    flags = (
        click.option("--config", "config_file", type=_FILE, help="TOML file of these settings"),
        click.option("--store", type=_FOLDER, help="folder of jobs and videos"),
        click.option("--host", help="address to listen on  [default: 127.0.0.1]"),
        click.option("--port", type=int, help="0 for any free one  [default: 8000]"),
        click.option("--grpc-port", type=int, help="listen for gRPC too; 0 for any free one"),
        click.option("--redis", help="redis://... for limits, embeddings and news between gateways"),
        click.option("--memcached", help="HOST:PORT, for embeddings instead"),
        click.option("--s3", help="s3://bucket/prefix for finished videos"),
        click.option("--public-url", help="base URL of a CDN before the bucket"),
        click.option("--otlp", help="http://... where traces go"),
        click.option(
            "--latent-reuse",
            type=click.Choice(("off", "on")),
            help="let requests go on from latents of like ones  [default: off]",
        ),
        click.option("--reuse-gb", type=float, help="of latents that are kept for it  [default: 10]"),
        click.option("--reuse-tenant-gb", type=float, help="of these, of each tenant  [default: half]"),
        click.option(
            "--reuse-policy",
            type=click.Choice(("cost", "lru", "lfu", "fifo")),
            help="which of them go first  [default: cost]",
        ),
        click.option("--reuse-synonyms", type=_FILE, help="TOML or JSON file of words that mean the same"),
        click.option(
            "--reuse-seed-sigma",
            type=float,
            help="who names a seed takes up no latents below this noise level; 0: any  [default: 0.97]",
        ),
        click.option("--audit-share", type=float, help="of latent hits, made anew to be compared"),
        click.option("--warm", type=_FILE, help="requests to make at the start, a prompt or JSON a line"),
        click.option("--warm-tenant", help="for whom  [default: default]"),
        click.option("--cors", multiple=True, help="origin whose pages may call; may be repeated"),
        click.option("--proxy", "proxies", multiple=True, help="address whose X-Forwarded-For is believed"),
        click.option("--keep-days", type=float, help="how long ended jobs stay  [default: 7]"),
        click.option("--no-auth", is_flag=True, help="ask for no keys; on a loopback address only"),
        click.option("--log-format", type=click.Choice(("text", "json")), help="[default: text]"),
        click.option("--log-level", type=click.Choice(LEVELS), help="[default: warning]"),
        click.option("--log-prompts", is_flag=True, help="let prompts into the log"),
        click.option("--allow-private-webhooks", is_flag=True, help="let webhooks go to private addresses"),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


def settings_of(flags: dict[str, Any], models: tuple[str, ...] = ()) -> Any:
    """A `ServerSettings` of the flags of a command line."""
    from rushes.server.settings import read_server_settings

    # By identity: a port may be 0.
    given = {name: value for name, value in flags.items() if value not in (None, ()) and value is not False}
    file = given.pop("config_file", None)
    for flag, setting, value in (
        ("no_auth", "has_auth", False),
        ("log_prompts", "has_prompts_in_logs", True),
        ("allow_private_webhooks", "allows_private_webhooks", True),
    ):
        if given.pop(flag, False):
            given[setting] = value
    if models:
        given["models"] = models
    return read_server_settings(given, file)


@click.command(short_help="HTTP and gRPC over a store that workers serve.")
@gateway_options
@click.option("--model", "models", multiple=True, help="to offer; by default what workers serve")
def gateway(models: tuple[str, ...], **flags: Any) -> None:
    """Take requests over HTTP and gRPC; workers of the same store run them. Ctrl-C or SIGTERM ends it."""
    start = time.monotonic()
    _serve(settings_of(flags, models), start, ())


@click.command(short_help="The whole service on this machine.")
@gateway_options
@click.option("--model", default="toy", show_default=True, help="embedded model or checkpoint folder")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="processes")
@keep_gb_option
@device_options
@plan_option
def serve(
    model: str,
    workers: int,
    keep_gb: float,
    device: str | None,
    dtype: str | None,
    plan_file: Path | None,
    **flags: Any,
) -> None:
    """Start a gateway and its workers, and print the URL, a first key, and what is ready when.

    Ctrl-C or SIGTERM: nothing new is taken, open answers are finished, running jobs are saved.
    """
    start = time.monotonic()
    check_model(model)
    settings = settings_of(flags)
    own = {"--model": model, "--device": device, "--dtype": dtype, "--plan": plan_file, "--keep-gb": keep_gb}
    _serve(settings, start, (worker_command(settings, own),) * workers)


def check_model(model: str) -> None:
    """Raises `InvalidRequest` or `CheckpointError` where every worker would end with it."""
    rules_of(model)
    if model != "toy" and not Path(model).is_dir():
        raise InvalidRequest("model", f"{model}: give the folder of its checkpoint; only 'toy' has a name")


SHARED = ("store", "redis", "memcached", "s3", "otlp", "public_url", "keep_days", "log_format", "log_level")
"""Settings of a gateway that its workers must have too, with flags of the same names."""


def worker_command(settings: Any, own: Mapping[str, object]) -> tuple[str, ...]:
    """`rushes worker` beside a gateway, with flags of its own."""
    shared = {f"--{name.replace('_', '-')}": getattr(settings, name) for name in SHARED}
    given = {"--metrics-port": 0, **shared, **own}
    flags = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    flags += ["--log-prompts"] if settings.has_prompts_in_logs else []
    return (sys.executable, "-m", "rushes", "worker", *flags)


def _serve(settings: Any, start: float, commands: tuple[tuple[str, ...], ...]) -> None:
    check_installed("the service", "uvicorn")
    from rushes.engine.workplace import Workplace
    from rushes.server.run import Listening, listen, run_gateway
    from rushes.server.workers import Workers

    def say(text: str) -> None:
        click.echo(f"rushes: {time.monotonic() - start:6.1f} s  {text}", err=True)

    with ExitStack() as stack:
        found = stack.enter_context(listen(settings))
        place = stack.enter_context(
            Workplace.of_services(
                settings.store, s3=settings.s3, public_url=settings.public_url, redis=settings.redis
            )
        )
        if commands:
            stack.enter_context(Workers(commands, place, say))

        def ready(listening: Listening) -> None:
            url = listening.url
            say(f"listening at {url}  (studio: {url}/, API: {url}/docs)")
            if listening.grpc_port is not None:
                say(f"gRPC at {settings.host}:{listening.grpc_port}")
            if settings.has_auth:
                say(about_keys(settings, url))
            click.echo(url)

        run_gateway(place, settings, found, ready)
        say("stopping; running jobs are saved")


def about_keys(settings: Any, url: str) -> str:
    """A first key, or where more come from."""
    secret = first_key(settings)
    if secret is not None:
        return f"first key: {secret}  (shown once; studio: {url}/#key={secret})"
    return (
        f"keys were made before; another: rushes keys create NAME --store {shlex.quote(str(settings.store))}"
    )


def first_key(settings: Any) -> str | None:
    """The secret of a key for a store that has none yet."""
    from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore

    accounts = AccountStore(settings.store / ACCOUNTS_FILE)
    try:
        return None if accounts.keys.list() else accounts.keys.create("first")[1]
    finally:
        accounts.close()
