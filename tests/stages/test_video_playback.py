"""A browser plays what we write: right size, right duration, every frame."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from rushes.stages.video_encode import save_video

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PLAY = """address => new Promise((resolve, reject) => {
    const video = document.body.appendChild(document.createElement("video"));
    let duration_at_start;
    video.muted = true;
    video.onloadedmetadata = () => { duration_at_start = video.duration; };
    video.onerror = () => reject(new Error(video.error.message));
    video.onended = () => resolve({
        width: video.videoWidth, height: video.videoHeight, duration_at_start, duration: video.duration,
        frames: video.getVideoPlaybackQuality().totalVideoFrames,
    });
    video.src = address;
    video.play();
})"""

# CI installs chromium, so there the test runs and fails if it is missing.
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and not os.environ.get("CI"), reason="chromium is not installed"
)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frames = np.stack([np.tile(np.roll(ramp, shift)[None, :, None], (48, 1, 3)) for shift in range(9)])
    return save_video(frames, 16, tmp_path / "clip.mp4")


@pytest.fixture
def server(clip: Path) -> Iterator[str]:
    """Serves an empty page at / and the clip at /clip.mp4, whole: no range requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_clip = self.path == "/clip.mp4"
            self.send_response(200 if is_clip or self.path == "/" else 404)
            self.send_header("Content-Type", "video/mp4" if is_clip else "text/html")
            self.end_headers()
            self.wfile.write(clip.read_bytes() if is_clip else b"<body></body>")

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_chromium_plays_the_whole_clip(server: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.goto(server)
        played = page.evaluate(PLAY, f"{server}/clip.mp4")
        browser.close()
    duration = 9 / 16
    expected = {"width": 64, "height": 48, "duration_at_start": duration, "duration": duration, "frames": 9}
    assert played == expected
