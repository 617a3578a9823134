"""`python -m development.emulator`: the emulator on its own, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import time

from development.console import guarded, say

from .faults import FAULTS, Fault
from .flavours import FLAVOURS
from .server import Emulator


def main() -> int:
    """Serve until Ctrl-C or a termination signal. Returns the exit status."""
    faults = [name for name in FAULTS if name not in ("none", "slow")]  # --delay does what the last one does
    parser = argparse.ArgumentParser(
        prog="python -m development.emulator",
        description="A development server on this machine that speaks the OpenAI Images API and draws landscapes. "
        "It bills nobody, and checks requests as strictly as the server whose part it takes.",
        epilog=f"FAULT is one of: {', '.join(faults)}.",
    )
    parser.add_argument("--server", choices=FLAVOURS, default="openai", help="whose part it takes (%(default)s)")
    parser.add_argument("--port", type=int, default=8189, help="0 takes a free one (%(default)s)")
    parser.add_argument("--delay", type=float, default=2.0, metavar="SECONDS", help="time of a call (%(default)s)")
    parser.add_argument("--fail", choices=faults, metavar="FAULT", help="what always goes wrong")
    options = parser.parse_args()
    emulator = Emulator(options.server, port=options.port, delay_s=options.delay)
    if options.fail:
        emulator.fail(Fault(options.fail, times=None))
    return guarded(lambda: serve(emulator))


def serve(emulator: Emulator) -> None:
    with emulator:
        say(f"Images API emulator ({emulator.server}): a development server, it bills nobody. For ComfyUI, set")
        if emulator.server == "comfy":
            say(f"--comfy-api-base {emulator.origin}")
        else:
            say(f"OPENAI_BASE_URL={emulator.base_url}")
            say(f"OPENAI_API_KEY={emulator.api_key}")
        say("Ctrl-C stops it.")
        while True:
            time.sleep(0.5)  # a wait without an end would not let Windows deliver Ctrl-C
            emulator.requests.clear()  # nobody looks at its log, and uploads are large


if __name__ == "__main__":
    sys.exit(main())
