"""What the sessions have in common for somebody at a console: progress, failures in a sentence, Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class Failed(RuntimeError):
    """Something did not come about; the message is for whoever started a session."""


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def guarded(job: Callable[[], None]) -> int:
    """Do a job for somebody at a console and return the exit code; what goes wrong becomes a sentence."""
    # Not every console has the letters that prompts and messages may hold.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        job()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except (Failed, OSError) as err:
        print(f"\n{err}", file=sys.stderr)
        return 1
    return 0
