"""An edit beside its take, and both on one clock."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from studio_parts import CLIP_MS, SHORT, SHOTS, roll


def test_a_take_is_edited_and_shown_before_and_after(studio: Page, url: str) -> None:
    roll(studio, "a red dog in a park", **SHORT, seed=7)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.click("#deeds button:has-text('Edit')")
    studio.fill("#edit-prompt", "a red dog in the snow")
    studio.click("#dialog button:has-text('Roll the edit')")
    expect(studio.locator("#shot")).to_have_text("a red dog in the snow")
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    expect(studio.locator("#facts")).to_contain_text(
        re.compile(r"an edit from noise level 0\.98, \d steps? saved")
    )
    studio.click("#deeds button:has-text('Before, after')")
    captions = studio.locator("#dialog figcaption")
    expect(captions).to_have_text(["a red dog in a park", "a red dog in the snow"])
    SHOTS.mkdir(parents=True, exist_ok=True)
    studio.screenshot(path=SHOTS / "edit.png")


def test_a_box_on_the_poster_is_what_may_change(studio: Page, url: str) -> None:
    roll(studio, "a red dog in a park", **SHORT, seed=9)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.click("#deeds button:has-text('Edit')")
    frame = studio.locator(".region canvas")
    box = frame.bounding_box()
    assert box is not None
    studio.mouse.move(box["x"] + 4, box["y"] + 4)
    studio.mouse.down()
    studio.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4, steps=4)
    studio.mouse.up()
    expect(studio.locator(".region button")).to_be_visible()
    SHOTS.mkdir(parents=True, exist_ok=True)
    studio.screenshot(path=SHOTS / "edit-region.png")
    studio.fill("#edit-prompt", "a blue cat in a park")
    with studio.expect_request("**/remix") as sent:
        studio.click("#dialog button:has-text('Roll the edit')")
    asked = sent.value.post_data_json
    assert asked is not None
    assert asked["mask"].startswith("data:image/png;base64,")
    expect(studio.locator("#shot")).to_have_text("a blue cat in a park")
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)


def test_an_edit_that_is_refused_stays_in_the_dialog(studio: Page) -> None:
    roll(studio, "a red balloon over a lake", **SHORT, seed=8)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.keyboard.press("m")
    studio.fill("#edit-prompt", "   ")
    studio.click("#dialog button:has-text('Roll the edit')")
    expect(studio.locator("#dialog .wrong")).to_contain_text("prompt")
    expect(studio.locator("#shot")).to_have_text("a red balloon over a lake")
