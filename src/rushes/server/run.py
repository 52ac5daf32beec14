"""A gateway process: its parts put together, uvicorn around them, and its end."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError
from rushes.server.app import create_app
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.protocol import protocol_of
from rushes.server.service import Service
from rushes.server.settings import ServerSettings

BACKLOG = 2048
MOST_FILES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a gateway is reached."""

    url: str
    grpc: str | None = None


def listen(settings: ServerSettings) -> socket.socket:
    """The socket of HTTP, bound before anything is loaded. Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named: asyncio turns Nagle's algorithm off where it reads TCP; small answers would wait 40 ms for an
    # acknowledgement.
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
    return found


def url_of(settings: ServerSettings, found: socket.socket) -> str:
    """Of the service, as a browser of this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{found.getsockname()[1]}"


def make_service(place: Workplace, settings: ServerSettings) -> Service:
    """The parts of a gateway over an open workplace."""
    gateway = Gateway(place, Feed(place.jobs), models=settings.models or None, keep_days=settings.keep_days)
    return Service(gateway=gateway, cors=settings.cors)


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
    place: Workplace, settings: ServerSettings, found: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C: then nothing new is taken, and open requests get `drain_s` seconds."""
    service = make_service(place, settings)

    server = Server(make_config(service, settings), on_ready, service.gateway.drain)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises what it caught once more when it has ended; the caller goes on with its own end.
        signal.signal(number, lambda *_: None)
    raise_file_limit()
    asyncio.run(server.serve(sockets=[found]))


def make_config(service: Service, settings: ServerSettings) -> uvicorn.Config:
    """Uvicorn around the application of a gateway."""
    return uvicorn.Config(
        create_app(service),
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
