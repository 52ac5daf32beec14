"""The `rushes` command. It loads no torch: a command imports what it runs when it runs."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> None:
    """Run the command line of this process and exit with its status; 130 after Ctrl-C."""
    try:
        from rushes.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("rushes: interrupted", file=sys.stderr, flush=True)
        # An ordinary exit would wait for threads that still read weights; and once Ctrl-C fell into an exec
        # of text, as dataclasses do on import, `python -m` ends itself by the signal, not with this status.
        # What os._exit skips is not missed: files are cleaned up by now, and every line was flushed.
        os._exit(INTERRUPTED)
