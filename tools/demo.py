"""`python dev.py demo`: the node in a real ComfyUI, from a prompt and from a mask to pictures in `output/`.

The emulator in this repository takes the part of the API, unless OPENAI_API_KEY or OPENAI_BASE_URL is set:
then their server does, at its price.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests

from emulator import Emulator
from tools.comfyui import ComfyUI, QueueRefused, problem
from tools.comfyui_source import ComfyUINotFound
from tools.events import Event
from tools.package import ROOT
from tools.program import ProgramFailed
from tools.workflows import Workflow, example_photo, inpainting, text_to_image

OUTPUT = ROOT / "output"
PHOTO = "hills-with-a-hole.png"
# A real model takes its time; the emulator does not.
RUN_TIMEOUT_S = 900.0


class DemoFailed(RuntimeError):
    """A workflow did not end in pictures."""


def main() -> int:
    return guarded(demo)


def demo() -> None:
    """Run both workflows. Raises DemoFailed, and whatever ComfyUI's start raises."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, started(Path(folder)) as comfyui:
        photo = comfyui.upload(PHOTO, example_photo())
        pictures = [
            *show(comfyui, "Text to image", text_to_image("A lighthouse on a cliff, in watercolour")),
            *show(comfyui, "Inpainting", inpainting("A red hot-air balloon", photo)),
        ]
    print("Done. The pictures:")
    for picture in pictures:
        print(f"  {picture}")


@contextmanager
def started(base_dir: Path, port: int = 0) -> Iterator[ComfyUI]:
    """A ComfyUI with this package, and the emulator unless the environment names another server."""
    with api() as env:
        print("Starting ComfyUI ...", flush=True)
        with ComfyUI(base_dir, env=env, output_dir=OUTPUT, port=port) as comfyui:
            yield comfyui


@contextmanager
def api() -> Iterator[dict[str, str]]:
    """The environment variables that lead the node to its API, which is running meanwhile."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("OPENAI_", "DALLE2_"))}
    if own.get("OPENAI_API_KEY") or own.get("OPENAI_BASE_URL"):
        host = urlsplit(own.get("OPENAI_BASE_URL") or "https://api.openai.com").hostname
        print(f"Using {host}, as OPENAI_API_KEY or OPENAI_BASE_URL says. Pictures may cost money there.")
        yield own
        return
    with Emulator(port=0) as emulator:
        print(f"Using the emulator at {emulator.base_url}: no key, no costs, and no real pictures either.")
        yield {"OPENAI_BASE_URL": emulator.base_url, "OPENAI_API_KEY": "sk-emulated"}


def show(comfyui: ComfyUI, title: str, workflow: Workflow) -> list[Path]:
    """Run a workflow, print what its nodes say meanwhile, and return its pictures. Raises DemoFailed."""
    start_s = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - start_s:5.1f} s  {text}", flush=True)

    def tell(event: Event) -> None:
        if event.kind == "text":
            say(event.text.replace("\n", " "))
        elif event.kind == "executing" and event.node_id in workflow:
            say(f"running {workflow[event.node_id]['class_type']}")

    print(title, flush=True)
    with comfyui.listen(tell) as events:
        entry = comfyui.run(workflow, timeout_s=RUN_TIMEOUT_S, client_id=events.client_id)
    pictures = comfyui.pictures(entry)
    reason = problem(entry) or (None if pictures else "it saved no picture")
    if reason:
        raise DemoFailed(f"{title} failed: {reason}")
    say(f"saved {', '.join(picture.name for picture in pictures)}")
    return pictures


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
    except (DemoFailed, ProgramFailed, ComfyUINotFound, QueueRefused, TimeoutError, requests.RequestException) as err:
        print(f"\n{err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
