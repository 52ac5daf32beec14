"""Start the service with the toy, make one video through HTTP, and tell when what was there.

    python -m benchmarks.serve_demo           # ends by itself
    python -m benchmarks.serve_demo --stay    # goes on serving until Ctrl-C

The client does what `curl` would: one POST, one event stream, one download while the video is made.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.http_load import Connection
from benchmarks.service_load import has_fragment

READY_S = 300.0
CLIP = {"preset": "fast", "seed": 7, "cache": "off"}


class Demo:
    """A `rushes serve` of its own, on a free port."""

    def __init__(self, store: Path) -> None:
        command = [sys.executable, "-m", "rushes", "serve", "--no-auth", "--port", "0", "--store", str(store)]
        self._begin = time.monotonic()
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._popen.stdout is not None
        self.url = self._popen.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"rushes serve ended with {self._popen.wait()}")
        self.listens_s = self._age_s

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._begin

    async def ready(self) -> float:
        """Seconds from the start until a worker is there."""
        async with Connection(self.url) as connection:
            while (await connection.request("GET", "/ready")).status != 200:
                if self._age_s > READY_S:
                    raise RuntimeError(f"no worker within {READY_S:g} s")
                await asyncio.sleep(0.25)
        return self._age_s

    async def clip(self, prompt: str, output: Path) -> dict[str, float]:
        """Seconds from the request: accepted, first step, first fragment at the client, done; and bytes."""
        sent, found, held = time.monotonic(), {}, bytearray()

        def take(data: bytes) -> None:
            held.extend(data)
            if "first frames" not in found and has_fragment(held):
                found["first frames"] = time.monotonic() - sent

        async with Connection(self.url) as maker, Connection(self.url) as player:
            answer = await maker.request("POST", "/v1/videos", {**CLIP, "prompt": prompt})
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.data.decode()}")
            found["accepted"] = time.monotonic() - sent
            video: dict[str, Any] = answer.json()
            say(f"{video['id']}: {video['size']}, {video['seconds']} s, ready in about {video['eta_s']} s")
            playing = asyncio.create_task(player.request("GET", video["urls"]["stream"], on_data=take))
            async for _, event in maker.events(video["urls"]["events"]):
                tell(event, time.monotonic() - sent)
                if event["event"] == "progress" and event["stage"] == "denoise":
                    found.setdefault("first step", time.monotonic() - sent)
                elif event["event"] == "failed":
                    raise RuntimeError(event["error"])
            found["done"] = time.monotonic() - sent
            await playing
        output.write_bytes(held)
        return {**found, "bytes": len(held)}

    def stay(self) -> None:
        """Until Ctrl-C."""
        stops = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stops.set())
        say(f"the studio is open at {self.url}/ until Ctrl-C")
        while not stops.wait(0.5) and self._popen.poll() is None:
            pass

    def stop(self) -> int:
        """SIGTERM; the status."""
        self._popen.send_signal(signal.SIGTERM)
        status = self._popen.wait(120)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return status


def say(text: str) -> None:
    print(text, flush=True)


def tell(event: dict[str, Any], seconds: float) -> None:
    """One line for an event that a viewer would want to see."""
    words = {
        "started": "a worker has begun",
        "frames": f"frames {event.get('start')} to {event.get('start', 0) + event.get('num_frames', 0) - 1}",
        "completed": "completed",
    }
    if event["event"] in words:
        say(f"{seconds:7.2f} s  {words[event['event']]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default="a dog running in the park")
    parser.add_argument("--output", type=Path, default=Path("serve-demo.mp4"))
    parser.add_argument("--stay", action="store_true", help="keep the studio open afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rushes-demo-") as folder:
        demo = Demo(Path(folder))
        try:
            say(f"studio: {demo.url}/   API: {demo.url}/docs")
            ready_s = asyncio.run(demo.ready())
            found = asyncio.run(demo.clip(args.prompt, args.output))
            if args.stay:
                demo.stay()
        finally:
            status = demo.stop()
    say(f"listening after {demo.listens_s:.1f} s, ready after {ready_s:.1f} s; wrote {args.output}")
    say(
        f"accepted in {1000 * found['accepted']:.0f} ms, first frames at the client after"
        f" {found['first frames']:.2f} s, done after {found['done']:.2f} s; {found['bytes']} bytes"
    )
    return status


if __name__ == "__main__":
    raise SystemExit(main())
