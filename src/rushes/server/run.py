"""A gateway process: its parts put together, uvicorn around them, and its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError
from rushes.server.app import create_app
from rushes.server.batch_runner import batching_over
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.grpc_edge import GrpcEdge, check_port
from rushes.server.service import Service
from rushes.server.settings import ServerSettings
from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore

BACKLOG = 2048


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


def make_service(place: Workplace, settings: ServerSettings) -> Service:
    """The parts of a gateway over an open workplace."""
    gateway = Gateway(
        place, Feed(place.jobs, place.bell), models=settings.models or None, keep_days=settings.keep_days
    )
    accounts = AccountStore(settings.store / ACCOUNTS_FILE)
    return Service(gateway=gateway, accounts=accounts, batching=batching_over(gateway, accounts))


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
    service = make_service(place, settings)
    edge = grpc_edge(service, settings)

    def drain() -> None:
        service.gateway.is_draining = True
        if edge is not None:
            edge.drain()

    def ready() -> None:
        port = None if edge is None else edge.port
        on_ready(Listening(url=url_of(settings, found), grpc_port=port))

    config = uvicorn.Config(
        create_app(service, edge=edge),
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.proxies),
        server_header=False,
    )
    server = Server(config, ready, drain)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises what it caught once more when it has ended; the caller goes on with its own end.
        signal.signal(number, lambda *_: None)
    asyncio.run(server.serve(sockets=[found]))
