"""The page in a real browser: draws everything, asks nobody, has no error, in light and in dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from rushes.profiling.growth import growths
from rushes.profiling.page_writer import MAX_BYTES, page, save_page
from rushes.profiling.report import Bar, Finding, Flame, Profile, Run, Sweep
from rushes.profiling.session import Session

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# CI installs chromium, so there the tests run and fail if it is missing.
has_browser = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and not os.environ.get("CI"), reason="chromium is not installed"
)

SECTIONS = ["findings", "stages", "waterfall", "operators", "roofline", "flame", "memory", "raw"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, profile: Profile, folder: Path, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page in a tab without a network, and everything that went wrong or was asked for."""
    path = folder / "profile.html"
    save_page(profile, path)
    assert path.stat().st_size <= MAX_BYTES
    context = browser.new_context(offline=True, color_scheme="dark" if scheme == "dark" else "light")
    tab = context.new_page()
    trouble: list[str] = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("request", lambda asked: None if asked.url.startswith("file:") else trouble.append(asked.url))
    tab.goto(path.as_uri())
    return tab, trouble


@has_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_drawn(browser: Browser, dense: Session, tmp_path: Path, scheme: str) -> None:
    profile = Profile(kind="run", about={"device": "cpu"}, runs=(dense.run,))
    tab, trouble = opened(browser, profile, tmp_path, scheme)
    assert [tab.locator(f"#{name}").count() for name in SECTIONS] == [1] * len(SECTIONS)
    assert tab.locator("#stages tbody tr").count() == len(dense.run.rows) + 1
    assert tab.locator("#operators tbody tr").count() == len(dense.run.operators)
    assert tab.locator(".finding").count() == len(dense.run.findings)
    assert tab.locator("#waterfall rect").count() == len(dense.run.bars)
    assert tab.locator("#roofline circle").count() > 3
    assert tab.locator("#flame rect").count() > 20
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    tab.click("#theme")
    assert tab.evaluate("document.documentElement.dataset.theme") != scheme
    # Nothing sticks out to the side.
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert trouble == []


@has_browser
def test_it_zooms_sorts_and_hints(browser: Browser, dense: Session, tmp_path: Path) -> None:
    tab, trouble = opened(browser, Profile(kind="run", about={}, runs=(dense.run,)), tmp_path)
    before = tab.locator("#flame rect").count()
    tab.locator("#flame .hit").nth(1).click()
    assert tab.locator("#flame rect").count() != before
    tab.locator("#flame button").click()
    assert tab.locator("#flame rect").count() == before
    tab.locator("#operators th").nth(2).click()
    calls = [int(text or 0) for text in tab.locator("#operators td:nth-child(3)").all_inner_texts()]
    assert calls == sorted(calls, reverse=True)
    tab.locator("#waterfall .hit").first.hover()
    assert "begins at" in tab.locator("#tip").inner_text()
    assert trouble == []


def sweep_of(run: Run) -> Profile:
    runs = tuple(
        replace(
            run,
            label=f"num_frames={n}",
            total_s=run.total_s * n,
            rows=tuple(replace(row, seconds=row.seconds * n) for row in run.rows),
            operators=tuple(replace(op, seconds=op.seconds * n) for op in run.operators),
        )
        for n in (1, 2, 4)
    )
    sizes = (100.0, 200.0, 400.0)
    sweep = Sweep(
        field="num_frames",
        values=(5.0, 9.0, 17.0),
        size_name="tokens",
        sizes=sizes,
        growths=growths(runs, sizes),
        peak_bytes=(10**8, 2 * 10**8, 3 * 10**8),
    )
    return Profile(kind="sweep", about={}, runs=runs, sweep=sweep)


@has_browser
def test_two_runs_and_a_sweep(browser: Browser, dense: Session, routed: Session, tmp_path: Path) -> None:
    pair = Profile(kind="tries", about={}, runs=(dense.run, replace(routed.run, label="routed")))
    tab, trouble = opened(browser, pair, tmp_path)
    assert tab.locator("#compare tbody tr").count() > 5
    assert "routed" in tab.locator("#compare").inner_text()
    tab, more = opened(browser, sweep_of(dense.run), tmp_path)
    assert tab.locator("#growth polyline").count() >= 5
    assert "1.00" in tab.locator("#growth").inner_text()
    assert tab.locator("#compare").count() == 0
    assert trouble + more == []


@has_browser
def test_a_run_without_operators(browser: Browser, dense: Session, tmp_path: Path) -> None:
    bare = replace(dense.run, operators=(), ceilings=(), raw=(), findings=(), flame=None, ideal_s=None)
    tab, trouble = opened(browser, Profile(kind="run", about={}, runs=(bare,)), tmp_path)
    assert tab.locator("#stages").count() == 1
    assert tab.locator("#operators").count() == 0
    assert trouble == []


@has_browser
def test_text_cannot_break_out(browser: Browser, dense: Session, tmp_path: Path) -> None:
    evil = "</script><script>window.broken = true</script><img src=x onerror='window.broken = true'>"
    finding = Finding(category="host", stage="denoise", subject=evil, text=evil, saving_s=1.0)
    run = replace(dense.run, model=evil, label=evil, findings=(finding,), notes=(evil,))
    tab, trouble = opened(browser, Profile(kind="run", about={"commit": evil}, runs=(run,)), tmp_path)
    assert tab.evaluate("window.broken") is None
    assert evil in tab.locator(".finding").first.inner_text()
    assert trouble == []


def test_a_huge_profile_still_fits(dense: Session) -> None:
    bars = tuple(
        Bar(name=f"span {n}", stage="denoise", depth=n % 5, start_s=n, seconds=1.0) for n in range(1500)
    )
    wide = Flame(
        name="device",
        seconds=1.0,
        children=tuple(
            Flame(name=f"module {n} " + "x" * 600, seconds=1e-4, children=(Flame(name="op", seconds=1e-4),))
            for n in range(5000)
        ),
    )
    run = replace(dense.run, bars=bars, flame=wide)
    text = page(Profile(kind="run", about={}, runs=(run,)))
    assert len(text.encode()) <= MAX_BYTES
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
