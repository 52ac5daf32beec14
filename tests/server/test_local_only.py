"""Without keys, pages of other sites reach nothing through a browser on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_gateways import gateway_inside


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_who_is_answered(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with gateway_inside(tmp_path) as inside:
        answer = inside.client.get("/v1/videos", headers=headers)
        assert answer.status_code == status, answer.text
        if status == 403:
            assert answer.json()["error"]["code"] == "forbidden"


def test_a_page_of_this_server_and_an_origin_that_was_named(tmp_path: Path) -> None:
    with gateway_inside(tmp_path, cors=("http://friend.example",)) as inside:
        for origin in (inside.url, "http://friend.example"):
            assert inside.client.get("/v1/videos", headers={"Origin": origin}).status_code == 200
