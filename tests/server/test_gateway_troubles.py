"""A full disk, a locked store, a clock that jumps, readers that stop: a gateway says so and is well again."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from running_gateways import SMALL, Inside, created, events_of, gateway_inside
from store_disks import small_disk

from rushes.server.bounds import Bounds
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import JobOptions


def finish(inside: Inside, video_id: str, data: bytes, *, store: SqliteJobStore | None = None) -> None:
    """As a worker would, with these bytes as the video."""
    jobs = store or inside.place.jobs
    (record,) = jobs.lease("test", pipelines=("toy",), limit=1, ttl_s=60.0)
    assert record.id == video_id
    name = f"{record.id}-{record.token}.mp4"
    inside.place.results.write(name, data)
    jobs.finish(Lease(job_id=record.id, owner="test", token=record.token), result=name, actual_s=1.0)


def test_a_locked_store_is_stated_and_over_when_it_is(store: Path):
    with gateway_inside(store, timeout_s=0.3) as inside:
        video = created(inside.client)
        lock = sqlite3.connect(store / "jobs.sqlite", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        for method, path, body in (
            ("POST", "/v1/videos", SMALL),
            ("POST", f"/v1/videos/{video['id']}/cancel", None),
            ("DELETE", f"/v1/videos/{video['id']}", None),
        ):
            answer = inside.client.request(method, path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "store_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert str(store) not in error["message"], "folders of the server are nobody's business"
        assert inside.client.get(f"/v1/videos/{video['id']}").status_code == 200, "who reads waits for nobody"
        assert inside.client.get("/v1/videos").json()["data"][0]["id"] == video["id"]
        lock.execute("ROLLBACK")
        lock.close()
        assert created(inside.client)["status"] == "queued"


def test_a_full_disk_is_stated_and_what_is_there_is_served(tmp_path: Path):
    """The gateway runs on a disk of its own of a few hundred kilobytes."""
    with small_disk(tmp_path / "disk", "2m") as prefix:
        command = [*prefix, sys.executable, "-m", "rushes", "gateway", "--no-auth", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--store", str(tmp_path / "disk" / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with httpx2.Client(base_url=url, timeout=60.0) as client:
                fill_up(client)
            assert process.poll() is None
        finally:
            process.terminate()
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said


def fill_up(client: httpx2.Client) -> None:
    made = []
    for number in range(3000):
        answer = client.post("/v1/videos", json={**SMALL, "prompt": "x" * 1500, "seed": number})
        if answer.status_code != 200:
            break
        made.append(answer.json()["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in answer.headers
    assert made
    assert client.get(f"/v1/videos/{made[-1]}").json()["status"] == "queued"
    assert client.get("/health").status_code == 200


def test_clocks_that_differ_or_jump_cost_nothing(store: Path):
    """Jobs of an hour ago and of an hour ahead, events in a time that runs backwards."""
    now = time.time()
    with gateway_inside(store) as inside:
        for shift in (-3600.0, 3600.0):
            skewed = SqliteJobStore(store / "jobs.sqlite", clock=lambda shift=shift: now + shift)
            video = created(inside.client, seed=int(abs(shift)))
            # Its worker's clock is another one's; then it turns round.
            finish(inside, video["id"], b"video", store=skewed)
            skewed.close()
            events = list(events_of(inside.client, video["id"]))
            assert [event["kind"] for event in events] == ["queued", "completed"]
            found = inside.client.get(f"/v1/videos/{video['id']}").json()
            assert (found["status"], found["eta_s"]) == ("completed", None)
            assert inside.client.get(f"/v1/videos/{video['id']}/content").content == b"video"
        ahead = SqliteJobStore(store / "jobs.sqlite", clock=lambda: now + 86_400)
        request, options = inside.place.jobs.asked(video["id"]), JobOptions(lane="interactive")
        record = ahead.create(replace(request, prompt="of tomorrow"), options, predicted_s=1.0, eta_s=2.0)
        ahead.close()
        found = inside.client.get(f"/v1/videos/{record.id}").json()
        assert found["eta_s"] >= 0
        assert inside.client.get("/v1/videos").json()["data"][0]["id"] == record.id


STALL = Bounds(stall_s=0.7)


def test_a_client_that_never_reads_is_let_go_and_costs_no_memory(store: Path):
    """Forty megabytes wait for it; the server holds some hundred kilobytes of them, for `stall_s`."""
    with gateway_inside(store, bounds=STALL) as inside:
        video = created(inside.client)
        finish(inside, video["id"], bytes(40_000_000))
        before = resident_bytes()
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        found.settimeout(20)
        found.connect(inside.address)
        found.sendall(f"GET /v1/videos/{video['id']}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(2.5)
        assert resident_bytes() - before < 16_000_000
        assert len(left(found)) < 40_000_000, "the connection was cut, not drained"
        found.close()
        whole = inside.client.get(f"/v1/videos/{video['id']}/content").content
        assert len(whole) == 40_000_000, "who reads gets it all"


def test_a_slow_reader_is_no_stalled_one(store: Path):
    with gateway_inside(store, bounds=STALL) as inside:
        video = created(inside.client)
        finish(inside, video["id"], bytes(12_000_000))
        with socket.create_connection(inside.address, timeout=20) as found:
            path = f"/v1/videos/{video['id']}/content"
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            found.sendall(head.encode())
            num_bytes = 0
            for _ in range(8):  # longer than `stall_s` in all
                time.sleep(0.25)
                num_bytes += len(found.recv(1_000_000))
            num_bytes += len(left(found))
        assert num_bytes > 12_000_000


def left(found: socket.socket) -> bytes:
    parts = []
    try:
        while part := found.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def resident_bytes() -> int:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return 1024 * int(line.split()[1])


def test_a_follower_of_a_job_that_never_starts_is_let_go_with_its_client(store: Path):
    """Watchers of clients that have gone are forgotten."""
    with gateway_inside(store) as inside:
        video = created(inside.client)
        host, port = inside.address
        for name in ("events", "stream"):
            with socket.create_connection((host, port), timeout=10) as found:
                found.sendall(
                    f"GET /v1/videos/{video['id']}/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                assert found.recv(1000).startswith(b"HTTP/1.1 200")
                wait_for_watchers(inside, 1)
            wait_for_watchers(inside, 0)


def wait_for_watchers(inside: Inside, num: int) -> None:
    deadline = time.monotonic() + 10
    while inside.feed.num_watchers != num:
        assert time.monotonic() < deadline, inside.feed.num_watchers
        time.sleep(0.01)


ORIGIN = {"Origin": "https://studio.example"}


def test_pages_of_named_origins_may_call_and_no_others(store: Path):
    with gateway_inside(store, cors=("https://studio.example",)) as inside:
        asks = {**ORIGIN, "Access-Control-Request-Method": "POST"}
        asks["Access-Control-Request-Headers"] = "authorization, content-type, idempotency-key"
        preflight = inside.client.options("/v1/videos", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://studio.example"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        refusal = inside.client.post("/v1/videos", json={}, headers=ORIGIN)
        assert refusal.status_code == 400
        assert refusal.headers["access-control-allow-origin"] == "https://studio.example"
        assert "X-Request-Id" in refusal.headers["access-control-expose-headers"]
        other = inside.client.options("/v1/videos", headers={**asks, "Origin": "https://evil.example"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-credentials" not in refusal.headers


def test_without_origins_no_page_may_call(store: Path):
    with gateway_inside(store) as inside:
        answer = inside.client.get("/v1/videos", headers=ORIGIN)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("proxies", "seen"), [(("127.0.0.1",), "203.0.113.9"), (("10.0.0.1",), "127.0.0.1")])
def test_forwarding_headers_are_believed_of_proxies_only(store: Path, proxies: tuple[str, ...], seen: str):
    callers: list[tuple[str, str]] = []

    def noting(app):
        async def noted(scope, receive, send) -> None:
            if scope["type"] == "http":
                callers.append((scope["client"][0], scope["scheme"]))
            await app(scope, receive, send)

        return noted

    with gateway_inside(store, proxies=proxies, app=noting) as inside:
        headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9", "X-Forwarded-Proto": "https"}
        assert inside.client.get("/health", headers=headers).status_code == 200
    assert callers == [(seen, "https" if seen != "127.0.0.1" else "http")]
