"""One service and one browser for all tests of the studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from studio_parts import CHROMIUM, CHROMIUM_FLAGS, has_chromium, open_studio, service


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store: Path = tmp_path_factory.mktemp("studio") / "store"
    with service(store, "--no-auth") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not has_chromium():
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield found
        found.close()


@pytest.fixture
def studio(browser: Browser, url: str) -> Iterator[Page]:
    with open_studio(browser, url) as page:
        yield page
