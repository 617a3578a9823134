"""A ComfyUI for the browser, with one of three generations of its frontend, whose settings can change while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from development.comfyui import ComfyUI
from development.emulator import Emulator

# The frontend that ComfyUI's own requirements pin, and two newer ones, which noxfile.py puts below this folder.
FRONTENDS = ("pinned", "middle", "newest")
FOLDER = Path(sys.prefix) / "frontends"


def version(frontend: str) -> str:
    """The version of a frontend."""
    path = sys.path if frontend == "pinned" else [str(FOLDER / frontend)]
    return str(next(iter(distributions(name="comfyui-frontend-package", path=path))).version)


@contextmanager
def comfyui_for_browser(base_dir: Path, frontend: str, emulator: Emulator) -> Iterator[ComfyUI]:
    """A running ComfyUI whose only way out is the emulator."""
    args = ["--comfy-api-base", emulator.origin]
    if frontend != "pinned":
        static = FOLDER / frontend / "comfyui_frontend_package" / "static"
        args += ["--front-end-root", str(static)]
    with ComfyUI(base_dir, args=args) as comfyui:
        yield comfyui


def use_own_key(comfyui: ComfyUI, emulator: Emulator) -> None:
    """Let the node use the emulator in the part of OpenAI, with the key that it takes."""
    use_settings_page(comfyui)
    comfyui.set_up(OPENAI_BASE_URL=emulator.base_url, OPENAI_API_KEY=emulator.api_key, DALLE2_MODEL="gpt-image-2")


def use_settings_page(comfyui: ComfyUI, **stored: str) -> None:
    """Let the settings page have stored these settings, and none stand elsewhere."""
    comfyui.set_up()
    file = comfyui.base_dir / "user" / "__openai_dalle" / "settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stored), encoding="utf-8")
