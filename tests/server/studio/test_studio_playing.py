"""A clip is seen while it is made: previews, first frame, waterfall, and nothing moves about."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.service_processes import Service
from playwright.sync_api import Browser, Page, expect
from studio_parts import CLIP_MS, LONG, SHORT, ask, keep, open_studio, roll, statuses, until

PLAYS = "document.querySelector('#video').hidden ? 0 : document.querySelector('#video').currentTime"
PREVIEWS = (
    "performance.getEntriesByName('rushes.preview').map(entry => [entry.duration, entry.detail.fetched])"
)


def test_it_plays_before_it_is_done(studio: Page, url: str) -> None:
    roll(studio, "a dog running in the park", **LONG)
    until(lambda: studio.evaluate(PLAYS) > 0)
    assert statuses(url)[0] == "in_progress"
    assert studio.evaluate("document.querySelector('#video').videoWidth") == 64
    keep(studio, "playing")
    assert studio.inner_text("#first").endswith("s")
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    video = ask(f"{url}/v1/videos?limit=1")["data"][0]
    duration = studio.evaluate("document.querySelector('#video').duration")
    assert abs(duration - video["num_frames"] / video["fps"]) < 0.05
    keep(studio, "done")


def test_a_preview_is_shown_at_once(browser: Browser, tmp_path: Path) -> None:
    """From its event to its picture. The stages sleep: on a GPU, too, they leave the cores to others."""
    pace = ("--step-s", "0.3")
    with Service(tmp_path, pace=pace) as service:
        _, url = service.start_gateway()
        service.start_worker()
        with open_studio(browser, f"{url}/") as studio:
            roll(studio, "a cat on a sofa", num_frames=17, num_inference_steps=12)
            expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
            shown = studio.evaluate(PREVIEWS)
    print("ms from event to picture, of which fetching:", [[round(each) for each in pair] for pair in shown])
    assert len(shown) >= 8, "previews were not shown"
    assert statistics.median(total for total, _ in shown) <= 100


def test_nothing_moves_while_it_runs(studio: Page) -> None:
    studio.wait_for_timeout(600)  # what came while the page was loaded is not meant here
    studio.evaluate("window.shifts = []")
    roll(studio, "a bird over the sea", **SHORT)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    studio.wait_for_timeout(500)
    assert sum(studio.evaluate("window.shifts")) < 0.002


def test_the_waterfall_has_a_bar_for_every_unit(studio: Page) -> None:
    roll(studio, "a fish in a bowl", **SHORT)
    expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
    bars = {
        name: studio.locator(f"[data-stage={name}] g rect").count()
        for name in ("queue", "text_encode", "denoise", "vae_decode")
    }
    assert bars.pop("queue") >= 1
    assert bars == {"text_encode": 1, "denoise": 4, "vae_decode": 3}


def test_what_holds_a_take_up_is_told(browser: Browser, tmp_path: Path) -> None:
    """No worker, another job, a worker that died: the first row has it all, the seconds are the trace's."""
    with Service(tmp_path, pace=("--step-s", "0.25"), worker=("--max-batch", "1", "--lease", "2")) as service:
        _, url = service.start_gateway()
        with open_studio(browser, f"{url}/") as studio:
            expect(studio.locator("#eta")).to_have_text("no worker")
            for prompt in ("a cat on a sofa", "a dog on a sofa"):
                roll(studio, prompt, num_frames=9, num_inference_steps=24)
            worker = service.start_worker()
            expect(studio.locator("#state")).to_have_text("Waiting to begin", timeout=CLIP_MS)
            until(lambda: studio.locator("[data-stage=denoise] g rect").count() > 16)
            worker.kill()
            service.start_worker()
            expect(studio.locator("#eta-name")).to_have_text("Took", timeout=CLIP_MS)
            video = ask(f"{url}/v1/videos?limit=1")["data"][0]["id"]
            until(lambda: ask(f"{url}/v1/videos/{video}/trace")["lives"][-1]["is_over"])
            queue_s = ask(f"{url}/v1/videos/{video}/trace")["verdict"]["seconds"]["queue"]
            assert queue_s > 1
            expect(studio.locator("#verdict")).to_contain_text(f"{queue_s:.1f} s", timeout=15_000)
            assert f"worker lost\n{queue_s:.1f} s" in studio.inner_text("[data-stage=queue]")
