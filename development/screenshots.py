"""`python dev.py screenshots`: the pictures of README, help pages and templates, from the running editor.

The emulator draws what is to be seen. Every picture is replaced; look at each before it is committed.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from playwright.sync_api import Browser

from development.browser import WINDOW, started_browser, visitor
from development.comfyui import ComfyUI
from development.console import Failed, guarded, say
from development.editor_page import NODE, TEMPLATE, Editor
from development.emulator import Emulator
from development.frontends import comfyui_for_browser, use_own_key, use_settings_page
from development.package import ROOT, copy_package
from development.workflows import EXAMPLES, example_photo

DOCS = ROOT / "docs" / "images"
HELP = ROOT / "web" / "docs" / "images"
MAX_BYTES = 250_000
JPEG_QUALITY = 85
THUMBNAIL_PX = 512
HELP_PX = 600  # what the help panel shows without a loss, at its usual width
BACKGROUND = (32, 32, 34)
# Nothing in sight but the graph.
SETTINGS: Mapping[str, Any] = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.RightSidePanel.IsOpen": False,
}
# What the help pages show of a template after its run: the name of the picture, and two nodes.
CROPS = {
    TEMPLATE: ("text-to-image.jpg", (NODE, "SaveImage")),
    "OpenAI DALL-E 2 Edit your photo": ("inpainting.jpg", ("LoadImage", NODE)),
    "OpenAI DALL-E 3 Text to Image": ("dalle-3.jpg", ("OpenAIDalle3", "SaveImage")),
}


def main() -> int:
    return guarded(screenshots)


def screenshots() -> None:
    """Make all pictures. Raises Failed."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Emulator() as emulator,
        started_browser() as browser,
        comfyui_for_browser(Path(folder), "newest", emulator) as comfyui,
    ):
        use_own_key(comfyui, emulator)
        for workflow in sorted(EXAMPLES.glob("*.json")):
            say(f"{workflow.stem} ...")
            example(comfyui, browser, workflow)
        say("The template browser and the settings ...")
        templates(comfyui, browser)
        settings(comfyui, browser)


@contextmanager
def opened_editor(comfyui: ComfyUI, browser: Browser) -> Iterator[Editor]:
    """The editor for one scene."""
    with visitor(browser) as somebody:
        yield Editor(somebody.new_page(), comfyui.url, SETTINGS)


def example(comfyui: ComfyUI, browser: Browser, workflow: Path) -> None:
    """The thumbnail of a template, made of the pictures that it saves, and what else shows this template."""
    scene = "High mountains at sunset" if "Outpainting" in workflow.stem else "A calm sea"
    comfyui.upload("example.png", example_photo(scene=scene))
    with opened_editor(comfyui, browser) as editor:
        editor.open_file(workflow)
        editor.frame()
        save(thumbnail(finish(editor)), workflow.with_suffix(".jpg"))
        editor.wait_until_quiet()
        if workflow.stem == TEMPLATE:
            save(editor.screenshot(), DOCS / "text-to-image.png")
        if workflow.stem in CROPS:
            name, kinds = CROPS[workflow.stem]
            part = opened(editor.look_at(*(node_id for kind in kinds for node_id in editor.nodes(kind))))
            save(ImageOps.contain(part, (HELP_PX, HELP_PX)), HELP / name)


def templates(comfyui: ComfyUI, browser: Browser) -> None:
    """Our part of the template browser, with the thumbnails that were just made."""
    copy_package(comfyui.package_dir)
    with opened_editor(comfyui, browser) as editor:
        # High enough for all of them.
        editor.page.set_viewport_size({"width": WINDOW["width"], "height": 900})
        editor.browse_templates()
        editor.wait_until_quiet()
        save(editor.screenshot(), DOCS / "templates.jpg")


def settings(comfyui: ComfyUI, browser: Browser) -> None:
    """The settings page as a new user sees it."""
    use_settings_page(comfyui)
    with opened_editor(comfyui, browser) as editor:
        editor.open_settings()
        editor.wait_until_quiet()
        save(editor.page.get_by_role("dialog").screenshot(animations="disabled"), DOCS / "settings.jpg")


def finish(editor: Editor) -> list[Image.Image]:
    """Run what is open, wait for all pictures that it saves, and return them."""
    editor.run()
    addresses = [address for node_id in editor.nodes("SaveImage") for address in editor.pictures(node_id)]
    return [opened(editor.page.request.get(address).body()) for address in addresses]


def thumbnail(pictures: Sequence[Image.Image]) -> Image.Image:
    """A square of one whole picture, of two side by side, or of four."""
    columns = 1 if len(pictures) == 1 else 2
    rows = -(-len(pictures) // columns)
    cell = (THUMBNAIL_PX // columns, THUMBNAIL_PX // rows)
    square = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
    for place, picture in enumerate(pictures):
        part = ImageOps.pad(picture, cell, color=BACKGROUND)
        square.paste(part, (place % columns * cell[0], place // columns * cell[1]))
    return square


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def save(picture: Image.Image | bytes, path: Path) -> None:
    """Write a picture, or the PNG of one, in the format of the path. Raises Failed for one too large."""
    picture = opened(picture) if isinstance(picture, bytes) else picture
    picture.save(path, optimize=True, quality=JPEG_QUALITY)
    if path.stat().st_size > MAX_BYTES:
        raise Failed(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}.")


if __name__ == "__main__":
    sys.exit(main())
