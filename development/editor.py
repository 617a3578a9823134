"""`python dev.py editor`: the demo's ComfyUI, left running for its editor in the browser until Ctrl-C.

Its folder, `.comfyui`, is kept between runs, and with it the workflows that were saved in the editor.
"""

from __future__ import annotations

import contextlib
import sys
import time

from development.console import Failed, guarded, say
from development.demo import OUTPUT, PHOTO, started
from development.package import ROOT
from development.workflows import example_photo


def main() -> int:
    return guarded(editor)


def editor() -> None:
    """Run until Ctrl-C. Raises Failed when ComfyUI ends by itself."""
    with started(ROOT / ".comfyui") as comfyui:
        comfyui.upload(PHOTO, example_photo())
        print(f"The editor: {comfyui.url}")
        print(f"Pictures go to {OUTPUT}; {PHOTO} is there to be loaded; the log is {comfyui.log_file}.")
        say("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            while comfyui.process.poll() is None:
                time.sleep(0.5)
            raise Failed(f"ComfyUI ended by itself; its log is {comfyui.log_file}.")
    print("Stopped.")


if __name__ == "__main__":
    sys.exit(main())
