"""Where webhooks may go: http and https, to addresses of the public internet unless others are allowed.

Names are resolved here and the connection goes to the address that was checked, so that a name cannot point
elsewhere a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from rushes.errors import ConfigError, InvalidRequest

_MOST_CHARACTERS = 2000
_UNICAST = ipaddress.IPv6Network("2000::/3")
_HIDES_IPV4 = tuple(ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32"))
"""Addresses of which a gateway on the way may make any IPv4 address."""


class PrivateTarget(ConfigError):
    """A webhook's host is not on the public internet."""


def check_webhook_url(url: str) -> None:
    """Raises `InvalidRequest` (`webhook`) for a URL that no webhook can have. Resolves nothing. The message
    holds no more than scheme and host: paths carry tokens."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidRequest("webhook", f"not a URL ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest("webhook", f"{parts.scheme[:20]!r} must be http or https")
    if not host:
        raise InvalidRequest("webhook", "the URL names no host")
    if parts.username is not None or parts.fragment:
        raise InvalidRequest("webhook", f"{host}: the URL must have no user, password or fragment")
    if len(url) > _MOST_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidRequest("webhook", f"{host}: at most {_MOST_CHARACTERS} printable ASCII characters")


async def addresses(host: str, port: int, *, allow_private: bool) -> tuple[str, ...]:
    """The addresses of a host, in the order in which to try them.

    Raises:
        PrivateTarget: one of them is not public, and only those are allowed.
        OSError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    targets = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and not all(is_public(target) for target in targets):
        raise PrivateTarget(f"{host} is not a public address; --allow-private-webhooks allows it")
    return targets


def is_public(address: str) -> bool:
    """Whether an IP address belongs to one host on the public internet.

    >>> is_public("8.8.8.8"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("fe80::1%lo")
    (True, False, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _UNICAST or any(ip in net for net in _HIDES_IPV4):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)
