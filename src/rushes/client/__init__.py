"""A client of a service over HTTP. It needs httpx2, and neither torch nor a server framework."""

from rushes.client.clips import Clip as Clip
from rushes.client.service import Client as Client

__all__ = ["Client", "Clip"]
