"""Speed and memory of the demo's clip on this machine: `make bench`."""

from __future__ import annotations

import resource
import sys
import time

import torch

import rushes

PROMPT = "a dog running in the park"
BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kibibytes, except on macOS


def main() -> None:
    """Print one table: loading, the first clip, the second (warm) clip by stage, peak memory."""
    begin = time.perf_counter()
    model = rushes.load("toy", device="cpu")
    load_s = time.perf_counter() - begin
    begin = time.perf_counter()
    model.generate(PROMPT, seed=0)
    first_s = time.perf_counter() - begin
    begin = time.perf_counter()
    video = model.generate(PROMPT, seed=1)
    second_s = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS
    frames, height, width, _ = video.frames.shape
    print(f"toy, {frames} frames of {width}x{height}")
    print(f"  torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"  load                {load_s:7.2f} s")
    print(f"  first clip          {first_s:7.2f} s")
    print(f"  second clip         {second_s:7.2f} s")
    for timing in video.timings:
        print(f"    {timing.stage:<16}  {timing.seconds:7.2f} s  ({timing.units} units)")
    print(f"  peak memory         {peak / 1e9:7.2f} GB")


if __name__ == "__main__":
    main()
