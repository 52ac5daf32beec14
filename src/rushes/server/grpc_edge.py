"""gRPC on a port of its own, on the event loop of HTTP: the service, health and reflection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from rushes.errors import ConfigError
from rushes.server.grpc_observed import NAME
from rushes.server.grpc_videos import Videos
from rushes.server.proto.rushes.v1 import videos_pb2_grpc
from rushes.server.service import Service

LOOK_S = 0.05

OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second gateway would share the port in silence
    ("grpc.max_receive_message_length", 1_000_000),  # as HTTP's bodies
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


def check_port(host: str, port: int) -> None:
    """Raises `ConfigError` where nothing can listen: asked before anything is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ConfigError(
                f"{host}:{port}: gRPC cannot listen there ({error.strerror}); choose another --grpc-port"
            ) from error


class GrpcEdge:
    """A server of one gateway process.

    Attributes:
        port: where it listens, once it is started.

    Args:
        drain_s: that open calls get when it stops.
    """

    def __init__(self, service: Service, *, host: str, port: int, drain_s: float) -> None:
        self.service, self.port = service, port
        self._videos = Videos(service, stall_s=service.bounds.stall_s)
        self._host, self._drain_s = host, drain_s
        self._server: Any = None
        self._health: Any = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def num_open(self) -> int:
        """Calls of the service that have begun and not ended."""
        return self._videos.num_open

    async def start(self) -> None:
        """Listen and answer. On the loop that runs from now on; raises `ConfigError`."""
        server = grpc.aio.server(options=OPTIONS)
        self._health = HealthServicer()
        videos_pb2_grpc.add_VideosServicer_to_server(self._videos, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.port = server.add_insecure_port(f"{host}:{self.port}")
        except RuntimeError as error:
            raise ConfigError(f"{host}:{self.port}: gRPC cannot listen there ({error})") from error
        await server.start()
        self._server = server
        for name in ("", NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def drain(self) -> None:
        """Say NOT_SERVING and take no new calls; open ones get `drain_s` seconds. Returns at once; on the
        loop."""
        if self._server is not None and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def stop(self) -> None:
        """Returns when every call has ended."""
        self.drain()
        if self._stopping is not None:
            await self._stopping

    async def _stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(self._drain_s))
        while self.num_open and not stopping.done():
            await asyncio.sleep(LOOK_S)
        # What is left are watches of health and reflection, which never end.
        await self._server.stop(0)
        await stopping
