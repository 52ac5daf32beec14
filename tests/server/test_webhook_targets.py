"""Which URLs and addresses a webhook may have."""

from __future__ import annotations

import asyncio

import pytest

from rushes.errors import InvalidRequest
from rushes.server.webhook_targets import PrivateTarget, addresses, check_webhook_url, is_public


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fc00::1",
        "fe80::1",
        "fec0::1",
        "2001:0:7f00:1::1",
        "fe80::1%eth0",
        "ff02::1",
    ],
)
def test_addresses_that_are_nobodys_on_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", ["https://example.com", "http://example.com:8080/a?b=c", "http://[::1]/x"])
def test_good_urls(url: str) -> None:
    check_webhook_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("example.com/hook", "must be http or https"),
        ("file:///etc/passwd", "must be http or https"),
        ("https://", "names no host"),
        ("https:///path", "names no host"),
        ("https://user:pass@example.com", "no user, password or fragment"),
        ("https://example.com/#x", "no user, password or fragment"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://example.com/a b", "printable ASCII"),
        ("https://example.com/\x7f", "printable ASCII"),
        ("https://exämple.com/", "printable ASCII"),
        ("https://example.com/" + 2000 * "x", "at most 2000"),
    ],
)
def test_bad_urls_are_named_without_their_paths(url: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^webhook: .*{message}") as raised:
        check_webhook_url(url)
    for word in ("passwd", "pass@", "xxx"):
        assert word not in str(raised.value)


def test_a_name_that_points_home_is_refused() -> None:
    with pytest.raises(PrivateTarget, match=r"^localhost is not a public address"):
        asyncio.run(addresses("localhost", 80, allow_private=False))
    assert "127.0.0.1" in asyncio.run(addresses("localhost", 80, allow_private=True))
