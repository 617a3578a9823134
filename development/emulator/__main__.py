"""`python -m development.emulator`: the emulator on its own, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

from .faults import FAULTS, Fault
from .flavours import FLAVOURS
from .server import Emulator


def main() -> int:
    """Serve until Ctrl-C or a termination signal. Returns the exit status."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO)
    emulator = Emulator(
        options.server,
        host=options.host,
        port=options.port,
        api_key=options.api_key,
        delay_s=options.delay,
        models=options.model,
        keep_files=False,
    )
    emulator.redraws = options.redraws
    for name in options.fail or ():
        for route in FAULTS[name].routes - {"models"}:  # a list of models that works leads to the picture that fails
            emulator.fail(Fault(name, route, times=None))
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    try:
        with emulator:
            print(_greeting(emulator), flush=True)
            # A wait without an end would not let Windows deliver Ctrl-C.
            while not stopped.wait(0.5):
                pass
    except OSError as err:
        print(f"Cannot listen on {options.host}:{options.port}: {err}. Try another --port.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m development.emulator",
        description="A development server that speaks the OpenAI Images API and draws landscapes. "
        "It bills nobody, checks requests strictly, and is not meant for a network.",
    )
    parser.add_argument("--server", choices=sorted(FLAVOURS), default="openai", help="whose part it takes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8189, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-key", default="sk-emulated", help="the key it takes (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=2.0, metavar="SECONDS", help="time that a call takes")
    parser.add_argument("--model", action="append", help="a model that it has; may be repeated")
    parser.add_argument("--redraws", action="store_true", help="edits change what the mask keeps, a little")
    names = ", ".join(FAULTS)
    parser.add_argument("--fail", action="append", choices=FAULTS, metavar="FAULT", help=f"what goes wrong: {names}")
    parser.add_argument("--verbose", action="store_true", help="log every detail")
    return parser


def _greeting(emulator: Emulator) -> str:
    lines = [
        f"Images API emulator ({emulator.server}) at {emulator.origin}: a development server, it bills nobody.",
        "Set these for ComfyUI, or use the flag:",
        f"  OPENAI_BASE_URL={emulator.base_url}",
        f"  OPENAI_API_KEY={emulator.api_key}",
    ]
    if emulator.server in ("openai", "comfy"):
        lines.append(f"  --comfy-api-base {emulator.comfy_base}")
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
