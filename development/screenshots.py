"""`python dev.py screenshots`: the pictures of README, help pages and templates, from the running editor.

The emulator draws what is to be seen. Every picture is replaced; look at each before it is committed.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from PIL import Image, ImageDraw, ImageFont, ImageOps
from playwright.sync_api import Browser

from development.browser import WINDOW, started_browser, visitor
from development.comfyui import ComfyUI
from development.console import Failed, guarded, say
from development.editor_page import NODE, TEMPLATE, Editor
from development.emulator import Emulator
from development.frontends import comfyui_for_browser, use_own_key, use_settings_page
from development.package import ROOT, copy_package
from development.workflows import EXAMPLES, example_photo, inpainting

DOCS = ROOT / "docs" / "images"
HELP = ROOT / "web" / "docs" / "images"
MAX_BYTES = 250_000
JPEG_QUALITY = 85
THUMBNAIL_PX = 512
HELP_PX = 600  # what the help panel shows without a loss, at its usual width
PANEL_PX, GAP_PX = 400, 12
BACKGROUND, INK = (32, 32, 34), (235, 235, 235)
MASK_COLOUR = (255, 0, 200)
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


@dataclass(frozen=True)
class Studio:
    """A running ComfyUI, the emulator behind it and the browser before it."""

    comfyui: ComfyUI
    emulator: Emulator
    browser: Browser

    @contextmanager
    def editor(self) -> Iterator[Editor]:
        """The editor for one scene."""
        with visitor(self.browser) as somebody:
            yield Editor(somebody.new_page(), self.comfyui.url, SETTINGS)


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
        studio = Studio(comfyui, emulator, browser)
        for scene in (kept, examples, templates, settings):
            say(f"{scene.__name__} ...")
            use_own_key(comfyui, emulator)
            emulator.reset()
            scene(studio)


def kept(studio: Studio) -> None:
    """A photo with its mask, what a server sends that repaints everything, and what the node makes of both."""
    studio.emulator.ignore_mask, studio.emulator.result = True, "url"
    photo = studio.comfyui.upload("photo.png", example_photo())
    graph = inpainting("A full moon above the sea", photo)
    (returned,) = studio.comfyui.pictures(studio.comfyui.run(graph))
    download = studio.emulator.requests[-1]
    sent = requests.get(studio.emulator.origin + download.path, timeout=30).content
    original = Image.open(io.BytesIO(example_photo()))
    masked = Image.new("RGBA", original.size, MASK_COLOUR)
    masked.alpha_composite(original)
    panels = {
        "The photo, and its mask in pink": masked,
        "What the server sends": Image.open(io.BytesIO(sent)),
        "What the node returns": Image.open(returned),
    }
    save(side_by_side(panels), DOCS / "kept.jpg")


def side_by_side(panels: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures in a row, each with a line below it."""
    width = len(panels) * (PANEL_PX + GAP_PX) + GAP_PX
    row = Image.new("RGB", (width, PANEL_PX + 4 * GAP_PX), BACKGROUND)
    for place, (line, picture) in enumerate(panels.items()):
        left = GAP_PX + place * (PANEL_PX + GAP_PX)
        row.paste(picture.convert("RGB").resize((PANEL_PX, PANEL_PX)), (left, GAP_PX))
        ImageDraw.Draw(row).text((left, PANEL_PX + 1.7 * GAP_PX), line, INK, ImageFont.load_default(18))
    return row


def examples(studio: Studio) -> None:
    """The thumbnail of each template, made of the pictures that it saves, and what else shows a template."""
    for workflow in sorted(EXAMPLES.glob("*.json")):
        scene = "High mountains at sunset" if "Outpainting" in workflow.stem else "A calm sea"
        studio.comfyui.upload("example.png", example_photo(scene=scene))
        with studio.editor() as editor:
            editor.open_file(workflow)
            editor.frame()
            save(thumbnail(finish(editor)), workflow.with_suffix(".jpg"))
            editor.wait_until_quiet()
            if workflow.stem == TEMPLATE:
                save(editor.page.screenshot(), DOCS / "text-to-image.png")
            if workflow.stem in CROPS:
                name, kinds = CROPS[workflow.stem]
                part = opened(editor.look_at(*(node_id for kind in kinds for node_id in editor.nodes(kind))))
                save(ImageOps.contain(part, (HELP_PX, HELP_PX)), HELP / name)


def templates(studio: Studio) -> None:
    """Our part of the template browser, with the thumbnails that were just made."""
    copy_package(studio.comfyui.package_dir)
    with studio.editor() as editor:
        # High enough for all of them.
        editor.page.set_viewport_size({"width": WINDOW["width"], "height": 900})
        editor.browse_templates()
        editor.wait_until_quiet()
        save(editor.page.screenshot(), DOCS / "templates.jpg")


def settings(studio: Studio) -> None:
    """The settings page as a new user sees it."""
    use_settings_page(studio.comfyui)
    with studio.editor() as editor:
        editor.open_settings()
        editor.wait_until_quiet()
        save(editor.page.get_by_role("dialog").screenshot(), DOCS / "settings.jpg")


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
