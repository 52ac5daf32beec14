"""A real service with the toy model, a real Chromium, and a connection between them that can be cut."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[3]
SHOTS = ROOT / "build" / "studio"
"""Where tests keep what they saw."""

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 90.0
CLIP_MS = 120_000
"""For a small clip on a busy machine."""

SHORT = {"num_frames": 9, "num_inference_steps": 4}
LONG = {"num_frames": 97, "num_inference_steps": 4}
"""Decoded long enough to be watched meanwhile."""

OBSERVE_SHIFTS = """
window.shifts = [];
new PerformanceObserver(list => {
    for (const { value, hadRecentInput } of list.getEntries()) if (!hadRecentInput) window.shifts.push(value);
}).observe({ type: "layout-shift", buffered: true });
"""


@contextmanager
def service(store: Path, *flags: str) -> Iterator[str]:
    """`rushes serve` on a free port, once a worker of it serves: its URL."""
    command = [sys.executable, "-m", "rushes", "serve", "--port", "0", "--store", str(store), *flags]
    with (store.parent / "serve.log").open("w") as log:
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), (store.parent / "serve.log").read_text()
        if "--no-auth" in flags:
            until(lambda: ask(f"{url}/v1/models")["data"][0]["is_served"], START_S)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()
        process.stdout.close()


def ask(url: str) -> Any:
    """JSON of a GET."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def until(is_so: Callable[[], Any], seconds: float = CLIP_MS / 1000) -> Any:
    """What `is_so` returns once it is true."""
    end = time.monotonic() + seconds
    while not (value := is_so()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
    return value


class Relay:
    """A TCP relay before the service, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_cut, self._is_closed = False, False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def cut(self) -> None:
        """Break every connection, and every new one."""
        self._is_cut = True
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let new connections through."""
        self._is_cut = False

    def close(self) -> None:
        """End all threads."""
        self._is_closed = True
        with suppress(OSError), socket.create_connection(self._listener.getsockname()):
            pass
        self._accepting.join()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self._is_closed or self._is_cut:
                near.close()
                if self._is_closed:
                    return
                continue
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            threading.Thread(target=_pump, args=(near, far), daemon=True).start()


def _pump(near: socket.socket, far: socket.socket) -> None:
    other = {near: far, far: near}
    with selectors.DefaultSelector() as waiting, near, far, suppress(OSError):
        for end in other:
            waiting.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                if not data:
                    return
                other[key.fileobj].sendall(data)  # type: ignore[index]


@contextmanager
def open_studio(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """The studio in a fresh profile, ready to be used. The page must raise no error."""
    with browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}) as fresh:
        fresh.add_init_script(OBSERVE_SHIFTS)
        page = fresh.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        yield page
        assert not errors


def choose(page: Page, *, size: str = "64x64", **fields: int) -> None:
    """Put settings into the form."""
    page.check("input[name=size][value='']")
    width, height = size.split("x")
    for name, value in {"width": width, "height": height, **fields}.items():
        page.fill(f"#field-{name}", str(value))


def roll(page: Page, prompt: str, **fields: int) -> None:
    """Send a prompt as a user does."""
    choose(page, **fields)
    page.fill("#prompt", prompt)
    page.click("#roll")


def statuses(url: str) -> list[str]:
    """Of the service's jobs, newest first."""
    return [video["status"] for video in ask(f"{url}/v1/videos?limit=100")["data"]]


def keep(page: Page, name: str) -> None:
    """A screenshot for whoever wants to look."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def has_chromium() -> bool:
    """CI installs it, so there tests run and fail if it is missing."""
    return Path(CHROMIUM).exists() or bool(os.environ.get("CI"))
