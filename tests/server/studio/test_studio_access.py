"""For everybody: keyboard, phone, screen readers; errors beside their field."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from studio_parts import CLIP_MS, SHORT, ask, keep, open_studio, roll, until

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
GRAVE = ("serious", "critical")
APPEARED = (
    "Promise.allSettled(document.getAnimations().filter(one => one.effect.getTiming().iterations < Infinity)"
    ".map(one => one.finished))"
)
"""What fades in has little contrast until it is there."""


def grave_issues(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds that is serious or worse: rule, places."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.evaluate(APPEARED)
    found: Any = axe.run(page).response["violations"]
    return [(each["id"], [n["html"] for n in each["nodes"]]) for each in found if each["impact"] in GRAVE]


def test_an_error_stands_beside_its_field(studio: Page, url: str) -> None:
    num_before = len(ask(f"{url}/v1/videos?limit=100")["data"])
    roll(studio, "a dog", num_frames=34, num_inference_steps=4)
    wrong = studio.locator("[data-field=num_frames] .wrong")
    expect(wrong).to_contain_text("4n+1")
    expect(studio.locator("#field-num_frames")).to_be_focused()
    assert studio.get_attribute("#field-num_frames", "aria-invalid") == "true"
    assert len(ask(f"{url}/v1/videos?limit=100")["data"]) == num_before
    studio.fill("#field-num_frames", "9")
    studio.fill("#prompt", "")
    studio.click("#roll")
    expect(studio.locator("[data-field=prompt] .wrong")).not_to_be_empty()
    expect(wrong).to_be_empty()
    keep(studio, "error")


def test_a_clip_is_made_with_the_keyboard_alone(studio: Page) -> None:
    keys = studio.keyboard
    keys.press("n")
    expect(studio.locator("#prompt")).to_be_focused()
    keys.type("a rocket to the moon")
    for name, value in {"width": "64", "height": "64", "num_frames": "9", "num_inference_steps": "4"}.items():
        walk_to(studio, f"#field-{name}" if name != "width" else "input[name=size]")
        if name == "width":
            keys.press("ArrowRight")
            walk_to(studio, "#field-width")
        keys.type(value)
    keys.press("Control+Enter")
    expect(studio.locator("#shot")).to_have_text("a rocket to the moon")
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    keys.press("Escape")
    keys.press("c")
    expect(studio.locator("#compare-count")).to_have_text("1")
    keys.press("?")
    expect(studio.locator("dialog")).to_be_visible()
    keys.press("Escape")
    expect(studio.locator("dialog")).to_be_hidden()
    keys.press("e")
    expect(studio.locator("#prompt")).to_be_focused()


def walk_to(page: Page, selector: str) -> None:
    """Tab until the cursor is there; every stop on the way shows where it is."""
    for _ in range(40):
        page.keyboard.press("Tab")
        at, outline = page.evaluate(
            "selector => [document.activeElement.matches(selector),"
            " getComputedStyle(document.activeElement.matches('.chip input')"
            " ? document.activeElement.nextElementSibling : document.activeElement).outlineStyle]",
            selector,
        )
        assert outline != "none"
        if at:
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_a_phone_scrolls_one_way_only(browser: Browser, url: str) -> None:
    with open_studio(browser, url, **PHONE) as page:
        roll(page, "a very long prompt without an end " * 6, **SHORT)
        expect(page.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        page.click("#open-starters")
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 360
        keep(page, "phone")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious(browser: Browser, url: str, scheme: str) -> None:
    with open_studio(browser, url, color_scheme=scheme) as page:
        assert grave_issues(page) == []
        roll(page, "a house on a hill", **SHORT)
        assert grave_issues(page) == []
        expect(page.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
        page.click("summary:has-text('More settings')")
        page.fill("#field-num_frames", "34")
        page.click("#roll")
        expect(page.locator("[data-field=num_frames] .wrong")).not_to_be_empty()
        assert grave_issues(page) == []
        for button in ("#open-starters", "#open-help"):
            page.click(button)
            assert grave_issues(page) == []
            page.keyboard.press("Escape")


def test_two_takes_run_side_by_side(studio: Page) -> None:
    for seed in (1, 2):
        roll(studio, "a sun over hills", **SHORT, seed=seed)
        expect(studio.locator("#facts")).to_contain_text(f"seed {seed}")
        expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
        studio.click("#deeds button:has-text('Compare')")
    studio.click("#open-compare")
    times = "[...document.querySelectorAll('.pair video')].map(video => video.currentTime)"
    until(lambda: min(studio.evaluate(times)) > 0, 20)
    first, second = studio.evaluate(times)
    assert abs(first - second) < 0.1
    expect(studio.locator(".differences")).to_contain_text("Seed")
    assert grave_issues(studio) == []


def test_a_starter_queues_its_clips(studio: Page, url: str) -> None:
    roll(studio, "a warm-up", **SHORT)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.click("#open-starters")
    studio.check("input[value=presenter]")
    studio.fill("#slot-moods", "waving, sleeping")
    studio.click("dialog button:has-text('Queue 2 clips')")
    until(lambda: len(ask(f"{url}/v1/videos?limit=2")["data"]) == 2, 20)
    until(lambda: all("robot" in video["prompt"] for video in ask(f"{url}/v1/videos?limit=2")["data"]), 20)
    made = ask(f"{url}/v1/videos?limit=2")["data"]
    assert {video["priority"] for video in made} == {"batch"}
    assert len({video["seed"] for video in made}) == 1
    expect(studio.locator(".card[data-status=completed]").nth(1)).to_contain_text("robot", timeout=CLIP_MS)


def test_motion_can_be_done_without(browser: Browser, url: str) -> None:
    with open_studio(browser, url, reduced_motion="reduce") as page:
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.leader .sweep')).animationName")
            == "none"
        )
