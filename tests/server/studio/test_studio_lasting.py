"""A reload, a lost connection, a key: the studio finds its jobs again."""

from __future__ import annotations

import urllib.parse

from playwright.sync_api import Browser, Page, expect
from studio_parts import CLIP_MS, LONG, SHORT, Relay, open_studio, roll, statuses, until

DENOISED = "document.querySelectorAll('[data-stage=denoise] g rect').length"


def test_a_reload_goes_on_where_it_was(studio: Page, url: str) -> None:
    roll(studio, "a boat on a lake", **LONG)
    until(lambda: studio.evaluate(DENOISED) > 0)
    studio.reload()
    expect(studio.locator("#shot")).to_have_text("a boat on a lake")
    assert statuses(url)[0] == "in_progress"
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    assert studio.evaluate(DENOISED) == 4
    until(lambda: studio.evaluate("document.querySelector('#video').currentTime") > 0, 10)


def test_a_lost_connection_is_made_again(browser: Browser, url: str) -> None:
    relay = Relay(urllib.parse.urlsplit(url).port or 80)
    try:
        with open_studio(browser, relay.url) as page:
            roll(page, "a train in the snow", **LONG)
            until(lambda: page.evaluate(DENOISED) > 0)
            relay.cut()
            expect(page.locator("#house")).to_contain_text("Connection lost", timeout=15_000)
            expect(page.locator("#eta")).to_have_text("no answer")
            stood = page.inner_text("#clock")
            page.wait_for_timeout(400)
            assert page.inner_text("#clock") == stood, "time goes on without news"
            relay.mend()
            expect(page.locator("#house")).not_to_contain_text("Connection lost", timeout=20_000)
            expect(page.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
            assert page.evaluate(DENOISED) == 4, "no event was missed, none came twice"
            until(lambda: page.evaluate("document.querySelector('#video').currentTime") > 0, 20)
    finally:
        relay.close()


def test_a_running_take_can_be_cancelled_and_deleted(studio: Page, url: str) -> None:
    num_before = len(statuses(url))
    roll(studio, "a horse in the desert", **LONG)
    until(lambda: studio.evaluate(DENOISED) > 0)
    studio.click("#deeds button:has-text('Cancel')")
    expect(studio.locator("#state")).to_have_text("Cancelled", timeout=CLIP_MS)
    studio.click("#deeds button:has-text('Delete')")
    studio.click(".toast button:has-text('Undo')")
    expect(studio.locator("#shot")).to_have_text("a horse in the desert")
    studio.click("#deeds button:has-text('Delete')")
    until(lambda: len(statuses(url)) == num_before, 20)


def test_the_same_again_has_the_same_seed(studio: Page, url: str) -> None:
    roll(studio, "a red balloon", **SHORT, seed=7)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.click("#deeds button:has-text('Same again')")
    expect(studio.locator("#eta-name")).to_have_text("Ready in")
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    expect(studio.locator(".card").first).to_contain_text("a red balloon")
    assert "seed 7" in studio.inner_text("#facts")
