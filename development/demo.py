"""`python dev.py demo`: the node in a real ComfyUI, from a prompt and from a mask to pictures in `output/`.

`python dev.py editor` leaves the same ComfyUI running for its editor in the browser. Its folder, `.comfyui`, is kept
between runs, and with it the workflows that were saved in the editor.

The emulator in this repository takes the part of the API, unless OPENAI_API_KEY or OPENAI_BASE_URL is set:
then their server does, at its price.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from development.comfyui import ComfyUI, problem
from development.console import Failed, guarded, say
from development.emulator import Emulator
from development.events import Event
from development.package import ROOT
from development.workflows import Workflow, example_photo, inpainting, text_to_image

OUTPUT = ROOT / "output"
PHOTO = "hills-with-a-hole.png"
# A real model takes its time; the emulator does not.
RUN_TIMEOUT_S = 900.0


def demo() -> None:
    """Run both workflows. Raises Failed, and whatever ComfyUI's start raises."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, started(Path(folder)) as comfyui:
        photo = comfyui.upload(PHOTO, example_photo())
        pictures = [
            *show(comfyui, "Text to image", text_to_image("Mountains at sunset, in watercolour")),
            *show(comfyui, "Inpainting", inpainting("A full moon above the sea", photo)),
        ]
    print("Done. The pictures:")
    for picture in pictures:
        print(f"  {picture}")


def editor() -> None:
    """Run until Ctrl-C. Raises Failed when ComfyUI ends by itself."""
    with started(ROOT / ".comfyui") as comfyui, suppress(KeyboardInterrupt):
        comfyui.upload(PHOTO, example_photo())
        print(f"The editor: {comfyui.url}")
        print(f"Pictures go to {OUTPUT}; {PHOTO} is there to be loaded; the log is {comfyui.log_file}.")
        say("Ctrl-C stops it.")
        while comfyui.process.poll() is None:
            time.sleep(0.5)  # a wait without an end would not let Windows deliver Ctrl-C
        raise Failed(f"ComfyUI ended by itself; its log is {comfyui.log_file}.")


@contextmanager
def started(base_dir: Path) -> Iterator[ComfyUI]:
    """A ComfyUI with this package, and the emulator unless the environment names another server."""
    with api() as env:
        say("Starting ComfyUI ...")
        with ComfyUI(base_dir, env=env, output_dir=OUTPUT) as comfyui:
            yield comfyui


@contextmanager
def api() -> Iterator[dict[str, str]]:
    """The environment variables that lead the node to its API, which is running meanwhile."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("OPENAI_", "DALLE2_"))}
    own.pop("DALLE2_BACKEND", None)  # nobody is signed in here
    if own.get("OPENAI_API_KEY") or own.get("OPENAI_BASE_URL"):
        host = urlsplit(own.get("OPENAI_BASE_URL") or "https://api.openai.com").hostname
        print(f"Using {host}, as OPENAI_API_KEY or OPENAI_BASE_URL says. Pictures may cost money there.")
        yield own
        return
    with Emulator(port=0) as emulator:
        print(f"Using the emulator at {emulator.base_url}: no key, no costs, and no real pictures either.")
        yield {"OPENAI_BASE_URL": emulator.base_url, "OPENAI_API_KEY": "sk-emulated"}


def show(comfyui: ComfyUI, title: str, workflow: Workflow) -> list[Path]:
    """Run a workflow, print what its nodes say meanwhile, and return its pictures. Raises Failed."""
    start_s = time.monotonic()

    def tell(event: Event) -> None:
        if event.kind == "text":
            line = event.text.replace("\n", " ")
            say(f"  {time.monotonic() - start_s:5.1f} s  {line}")

    say(title)
    with comfyui.listen(tell) as events:
        entry = comfyui.run(workflow, timeout_s=RUN_TIMEOUT_S, client_id=events.client_id)
    pictures = comfyui.pictures(entry)
    reason = problem(entry) or (None if pictures else "it saved no picture")
    if reason:
        raise Failed(f"{title} failed: {reason}")
    return pictures


if __name__ == "__main__":
    sys.exit(guarded(editor if sys.argv[1:] == ["--editor"] else demo))
