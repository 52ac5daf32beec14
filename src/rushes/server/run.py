"""A gateway process: its parts put together, uvicorn around them, and its end."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn
from prometheus_client.registry import Collector

from rushes.config import s3_access
from rushes.engine.otlp import Tracing, tracer_provider
from rushes.engine.span_metrics import SpanDelivery
from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError
from rushes.server.app import create_app
from rushes.server.audits import Audits
from rushes.server.auth import Authenticator
from rushes.server.batch_runner import batching_over
from rushes.server.ends import Ends
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.grpc_edge import GrpcEdge, check_port
from rushes.server.latent_reuse import LatentReuse
from rushes.server.limits import Limits
from rushes.server.logs import configure_logs
from rushes.server.metrics import GatewayMetrics
from rushes.server.protocol import protocol_of
from rushes.server.redaction import Redactor
from rushes.server.reuse_setup import opened_latents
from rushes.server.service import Service
from rushes.server.settings import ServerSettings
from rushes.server.snapshots import SnapshotIndex
from rushes.server.webhooks import Webhooks
from rushes.server.worker_scrape import WorkerScrape
from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore

BACKLOG = 2048
MOST_FILES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a gateway is reached; `grpc_port` is None where gRPC is off."""

    url: str
    grpc_port: int | None = None


def listen(settings: ServerSettings) -> socket.socket:
    """The socket of HTTP, bound before anything is loaded. Raises `ConfigError`, also where gRPC's port is
    taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named: asyncio turns Nagle's algorithm off for sockets of TCP only, and with it every second small
    # answer waits 40 ms for an acknowledgement.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(
            f"{where}: cannot listen there ({error.strerror}); choose another --port"
        ) from error
    if settings.grpc_port:
        try:
            check_port(settings.host, settings.grpc_port)
        except ConfigError:
            found.close()
            raise
    return found


def url_of(settings: ServerSettings, found: socket.socket) -> str:
    """Of the service, as a browser of this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{found.getsockname()[1]}"


@contextmanager
def opened_service(place: Workplace, settings: ServerSettings) -> Iterator[Service]:
    """The parts of a gateway over an open workplace, with the threads that belong to them.

    Raises:
        ConfigError: a URL of the settings is none.
        StoreError: accounts cannot be read.
    """
    with ExitStack() as stack:
        tracing = stack.enter_context(tracer_provider("rushes-gateway", settings.otlp))
        accounts = AccountStore(place.folder / ACCOUNTS_FILE)
        stack.callback(accounts.close)
        limits = ends = None
        if settings.has_auth:
            webhooks = Webhooks(
                accounts, lambda record: gateway.video(record), allow_private=settings.allows_private_webhooks
            )
            limits = Limits(accounts, redis=settings.redis, on_end=webhooks.enqueue)
            stack.callback(limits.close)
            ends = Ends(place.jobs, limits)
        heard = [ends.hear] if ends is not None else []
        latents = stack.enter_context(opened_latents(place, settings))
        gateway = Gateway(
            place,
            Feed(place.jobs, place.bell, heard),
            models=settings.models or None,
            keep_days=settings.keep_days,
            limits=limits,
            latents=latents,
        )
        _listen_for_reuse(stack, gateway, latents, settings)
        if ends is not None:
            webhooks.start()
            stack.callback(webhooks.stop)
            stack.enter_context(ends)
        yield Service(
            gateway=gateway,
            authenticator=Authenticator(accounts) if settings.has_auth else None,
            limits=limits,
            ends=ends,
            accounts=accounts,
            batching=batching_over(gateway, accounts, keep_days=settings.keep_days),
            cors=settings.cors,
            media_origin=media_origin(settings),
            is_local_only=not settings.has_auth,
            metrics=_metrics(gateway, tracing),
            tracer=tracing.tracer,
        )


def _listen_for_reuse(
    stack: ExitStack, gateway: Gateway, latents: LatentReuse | None, settings: ServerSettings
) -> None:
    """What takes clips into the index of latents, and what makes a share of them anew."""
    if latents is not None:
        index = stack.enter_context(SnapshotIndex(gateway.place, latents, gateway.reuse.identity))
        gateway.feed.listen(index.hear)
    if settings.audit_share:
        audits = Audits(gateway.client, settings.audit_share, gateway.reuse.metrics)
        gateway.feed.listen(stack.enter_context(audits).hear)


def _metrics(gateway: Gateway, tracing: Tracing) -> GatewayMetrics:
    more: list[Collector] = [WorkerScrape.of(gateway.place.workers), gateway.reuse.metrics]
    if tracing.batches is not None:
        more.append(SpanDelivery("gateway", tracing.batches))
    return GatewayMetrics(gateway.place.jobs, more=more)


def media_origin(settings: ServerSettings) -> str | None:
    """Where browsers are sent for finished videos, None where the gateway sends them itself."""
    if settings.s3 is None:
        return None
    url = settings.public_url or s3_access().endpoint
    if url is None:
        return f"https://*.s3.{s3_access().region}.amazonaws.com"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def grpc_edge(service: Service, settings: ServerSettings) -> GrpcEdge | None:
    """gRPC, where it is asked for."""
    if settings.grpc_port is None:
        return None
    return GrpcEdge(service, host=settings.host, port=settings.grpc_port, drain_s=settings.drain_s)


class Server(uvicorn.Server):
    """Uvicorn that says when it listens, and whose end somebody else's signal handler may ask for."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_drain: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready, self._on_drain = on_ready, on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._on_drain()
        await super().shutdown(sockets)


def run_gateway(
    place: Workplace, settings: ServerSettings, found: socket.socket, on_ready: Callable[[Listening], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C: then nothing new is taken, and open requests get `drain_s` seconds."""
    redactor = Redactor(shows_prompts=settings.has_prompts_in_logs)
    configure_logs(settings.log_format, settings.log_level, redactor=redactor)
    with opened_service(place, settings) as service:
        _run(service, settings, found, on_ready)


def _run(
    service: Service, settings: ServerSettings, found: socket.socket, on_ready: Callable[[Listening], None]
) -> None:
    edge = grpc_edge(service, settings)

    def drain() -> None:
        service.gateway.drain()
        if edge is not None:
            edge.drain()

    def ready() -> None:
        port = None if edge is None else edge.port
        on_ready(Listening(url=url_of(settings, found), grpc_port=port))

    server = Server(make_config(service, settings, edge), ready, drain)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises what it caught once more when it has ended; the caller goes on with its own end.
        signal.signal(number, lambda *_: None)
    raise_file_limit()
    asyncio.run(server.serve(sockets=[found]))


def make_config(service: Service, settings: ServerSettings, edge: GrpcEdge | None = None) -> uvicorn.Config:
    """Uvicorn around the application of a gateway."""
    return uvicorn.Config(
        create_app(service, edge=edge),
        http=protocol_of(service.bounds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        timeout_keep_alive=30,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.proxies),
        server_header=False,
    )


def raise_file_limit() -> None:
    """Every open stream is a file or two; many systems begin with 1024 for a process that may have more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
