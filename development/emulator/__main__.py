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
    logging.basicConfig(level=logging.INFO)
    emulator = Emulator(
        options.server,
        port=options.port,
        api_key=options.api_key,
        delay_s=options.delay,
        models=options.model,
        keep_files=False,
    )
    for name in options.fail or ():
        for route in FAULTS[name] - {"models"}:  # a list of models that works leads to the picture that fails
            emulator.fail(Fault(name, route, times=None))
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with emulator:
            print(_greeting(emulator), flush=True)
            # A wait without an end would not let Windows deliver Ctrl-C.
            while not stopped.wait(0.5):
                pass
    except OSError as err:
        print(f"Cannot listen on port {options.port}: {err}. Try another --port.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m development.emulator",
        description="A development server on this machine that speaks the OpenAI Images API and draws landscapes. "
        "It bills nobody, and checks requests as strictly as the server whose part it takes.",
        epilog=f"FAULT is one of: {', '.join(FAULTS)}.",
    )
    parser.add_argument("--server", choices=FLAVOURS, default="openai", help="whose part it takes (%(default)s)")
    parser.add_argument("--port", type=int, default=8189, help="0 takes a free one (%(default)s)")
    parser.add_argument("--api-key", default="sk-emulated", help="the key it takes (%(default)s)")
    parser.add_argument("--delay", type=float, default=2.0, metavar="SECONDS", help="time of a call (%(default)s)")
    parser.add_argument("--model", action="append", help="a model that it has, such as dall-e-3; may be repeated")
    parser.add_argument("--fail", action="append", choices=FAULTS, metavar="FAULT", help="what always goes wrong")
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
    return "\n".join([*lines, "Ctrl-C stops it."])


if __name__ == "__main__":
    sys.exit(main())
