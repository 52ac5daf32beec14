"""The key: asked for once, kept, taken out of the address; media come under it too."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from studio_parts import until

from rushes.engine.workplace import Workplace
from rushes.server.app import create_app
from rushes.server.auth import Authenticator
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.service import Service
from rushes.stores.accounts import AccountStore


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URL of a gateway that wants a key, and the key."""
    found = socket.create_server(("127.0.0.1", 0))
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    with found, Workplace(tmp_path) as place:
        _, secret = accounts.keys.create("studio", tenant="default", scopes=("videos:read", "videos:write"))
        gateway = Gateway(place, Feed(place.jobs), models=("toy",))
        app = create_app(Service(gateway=gateway, authenticator=Authenticator(accounts)))
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
        thread.start()
        until(lambda: server.started, 20)
        yield f"http://127.0.0.1:{found.getsockname()[1]}", secret
        server.should_exit = True
        thread.join()
    accounts.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as fresh:
        yield fresh.new_page()


def test_a_key_is_asked_for_once(guarded: tuple[str, str], page: Page) -> None:
    url, secret = guarded
    page.goto(url)
    page.fill("dialog #key", "not-a-key")
    page.click("dialog button")
    expect(page.locator("#key-error")).to_contain_text("not known")
    page.fill("dialog #key", secret)
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-ready]")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("dialog")).to_be_hidden()
    page.fill("#prompt", "a dog")
    page.click("#roll")
    expect(page.locator(".card")).to_contain_text("a dog")
    expect(page.locator(".card")).to_have_attribute("data-status", "queued")


def test_a_key_in_the_address_is_taken_out_of_it(guarded: tuple[str, str], page: Page) -> None:
    url, secret = guarded
    page.goto(f"{url}/#key={secret}")
    page.wait_for_selector("html[data-ready]")
    assert secret not in page.url
    assert page.evaluate("localStorage.getItem('rushes.key')") == secret
