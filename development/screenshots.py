"""`python dev.py screenshots`: the pictures of README, help page and example workflows, from the running editor.

The emulator draws what is to be seen. Every picture is replaced; look at each before it is committed.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from playwright.sync_api import Browser, expect

from development.browser import ChromiumNotFound, started_browser, visitor
from development.comfyui import ComfyUI
from development.console import Failed, guarded, say
from development.editor_page import NODE, TEMPLATE, Editor, Point
from development.emulator import Emulator
from development.failures import FAILURES
from development.frontends import FrontendNotFound, comfyui_for_browser, use_own_key
from development.package import ROOT
from development.workflows import EXAMPLES, SAVED, example_photo

DOCS = ROOT / "docs" / "images"
HELP = ROOT / "web" / "docs" / "images"
MAX_BYTES = 250_000
THUMBNAIL_PX = 512
JPEG_QUALITY = 85
# Where ComfyUI runs: error messages name the folder, so it is one that says nothing of this computer.
BASE_DIR = Path(tempfile.gettempdir()) / "ComfyUI"
# Nothing in sight but the graph.
SETTINGS: Mapping[str, Any] = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.RightSidePanel.IsOpen": False,
}
PANEL_WIDTH_PX = 620
# What to paint over in the mask editor, in pixels of the window.
MASK_CENTRE, MASK_RADII = (500, 280), (130, 110)


@dataclass(frozen=True)
class Studio:
    """A running ComfyUI, the emulator behind it and the browser before it."""

    comfyui: ComfyUI
    emulator: Emulator
    browser: Browser

    @contextmanager
    def editor(self, workflow: Path | None = None) -> Iterator[Editor]:
        """The editor for one scene, with the user's own key."""
        use_own_key(self.comfyui, self.emulator)
        self.emulator.clear()
        self.emulator.delay_s = 0
        with visitor(self.browser) as somebody:
            editor = Editor(somebody.new_page(), self.comfyui.url, SETTINGS)
            if workflow is not None:
                editor.open_file(workflow)
                editor.frame()
            yield editor


def main() -> int:
    return guarded(screenshots)


def screenshots() -> None:
    """Make all pictures. Raises Failed."""
    if BASE_DIR.exists():
        raise Failed(f"{BASE_DIR} is in the way: ComfyUI is to run there for the pictures.")
    for folder in (DOCS, HELP, EXAMPLES):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        make("newest", (text_to_image, mask_and_edit, waiting, examples))
        # With the pictures of the first part installed, which these show.
        make("newest", (help_page, templates, panels))
        make("pinned", (dialogs,))
    except (ChromiumNotFound, FrontendNotFound) as err:
        raise Failed(str(err)) from err


def make(frontend: str, scenes: Iterable[Callable[[Studio], None]]) -> None:
    """Play scenes with one frontend."""
    BASE_DIR.mkdir()
    try:
        with (
            Emulator() as emulator,
            started_browser() as browser,
            comfyui_for_browser(BASE_DIR, frontend, emulator) as comfyui,
        ):
            for scene in scenes:
                say(f"{scene.__name__} ...")
                scene(Studio(comfyui, emulator, browser))
    finally:
        shutil.rmtree(BASE_DIR, ignore_errors=True)


def text_to_image(studio: Studio) -> None:
    """The template, after a run."""
    with studio.editor(EXAMPLES / f"{TEMPLATE}.json") as editor:
        finish(editor)
        save(editor, DOCS / "text-to-image.png", HELP / "text-to-image.jpg")


def mask_and_edit(studio: Studio) -> None:
    """A photo, its mask in the mask editor, and what the node makes of both."""
    studio.comfyui.upload("hills.png", opaque(example_photo()))
    with studio.editor(SAVED / "edit-a-photo.json") as editor:
        (photo,) = editor.nodes("LoadImage")
        mask_editor = editor.open_mask_editor(photo)
        editor.paint_mask(mask_editor, spiral(MASK_CENTRE, MASK_RADII), thickness=60)
        save(editor, HELP / "mask-editor.jpg")
        editor.save_mask(mask_editor)
        editor.deselect()
        finish(editor)
        save(editor, DOCS / "inpainting.png", HELP / "inpainting.jpg")


def waiting(studio: Studio) -> None:
    """The line on the node while it waits."""
    with studio.editor(EXAMPLES / f"{TEMPLATE}.json") as editor:
        studio.emulator.delay_s = 10
        editor.type_prompt("A sailing boat in the rain")
        editor.run()
        expect(editor.text_on_node(r"^Waiting for .*, [3-9] s$")).to_be_visible()
        save(editor, DOCS / "waiting.png", part=editor.look_at(editor.nodes(NODE)[0]))
        editor.cancel()
        editor.wait_until_idle()


def help_page(studio: Studio) -> None:
    """The help page beside the node."""
    with studio.editor(EXAMPLES / f"{TEMPLATE}.json") as editor:
        editor.open_help(editor.nodes(NODE)[0])
        editor.widen_panel(PANEL_WIDTH_PX)
        save(editor, DOCS / "help.jpg")


def templates(studio: Studio) -> None:
    """Our part of the template browser."""
    with studio.editor(EXAMPLES / f"{TEMPLATE}.json") as editor:
        editor.browse_templates()
        save(editor, DOCS / "templates.jpg")


def examples(studio: Studio) -> None:
    """The thumbnail of each example, made of the pictures that it saves."""
    for workflow in sorted(EXAMPLES.glob("*.json")):
        with studio.editor(workflow) as editor:
            thumbnail(finish(editor)).save(workflow.with_suffix(".jpg"), quality=JPEG_QUALITY, optimize=True)


def panels(studio: Studio) -> None:
    """What the newest frontend says about each failure."""
    for name in FAILURES:
        with failed(studio, name) as editor:
            editor.problem()
            editor.widen_panel(PANEL_WIDTH_PX)
            editor.wait_until_quiet()
            # What comes then names the folders of this computer.
            save(editor, DOCS / f"error-{name}-panel.jpg", part=editor.look_at_panel(until="## Stack Trace"))


def dialogs(studio: Studio) -> None:
    """What older frontends say about each failure."""
    for name in FAILURES:
        with failed(studio, name) as editor:
            editor.problem()
            editor.wait_until_quiet()
            save(editor, DOCS / f"error-{name}.jpg", part=editor.page.get_by_role("dialog").first.screenshot())


@contextmanager
def failed(studio: Studio, name: str) -> Iterator[Editor]:
    """The editor with a run that fails in the way of a row of FAILURES."""
    failure = FAILURES[name]
    with studio.editor(failure.workflow) as editor:
        failure.prepare(studio.comfyui, studio.emulator)
        editor.type_prompt(failure.prompt)
        editor.run()
        yield editor


def finish(editor: Editor) -> list[Image.Image]:
    """Run what is open, wait for all pictures that it saves, and return them."""
    editor.run()
    addresses = [address for node_id in editor.nodes("SaveImage") for address in editor.pictures(node_id)]
    return [Image.open(io.BytesIO(editor.page.request.get(address).body())) for address in addresses]


def save(editor: Editor, *paths: Path, part: bytes | None = None) -> None:
    """Write a picture of the window, once it is quiet, or the PNG `part`. Raises Failed for one too large."""
    if part is None:
        editor.wait_until_quiet()
    picture = Image.open(io.BytesIO(part or editor.page.screenshot())).convert("RGB")
    for path in paths:
        options: dict[str, Any] = {"quality": JPEG_QUALITY} if path.suffix == ".jpg" else {}
        picture.save(path, optimize=True, **options)
        if path.stat().st_size > MAX_BYTES:
            raise Failed(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}.")


def spiral(centre: Point, radii: Point) -> list[Point]:
    """The points of a stroke that fills an ellipse, from its edge inward."""
    turns = [(step / 24 * math.tau, 1 - max(0, step - 24) / 72) for step in range(96)]
    return [
        (centre[0] + radii[0] * part * math.cos(angle), centre[1] + radii[1] * part * math.sin(angle))
        for angle, part in turns
    ]


def thumbnail(pictures: Sequence[Image.Image]) -> Image.Image:
    """A square of one picture, of two side by side, or of four."""
    columns, rows = {1: (1, 1), 2: (2, 1)}.get(len(pictures), (2, 2))
    width, height = THUMBNAIL_PX // columns, THUMBNAIL_PX // rows
    square = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
    for place, picture in enumerate(pictures[: columns * rows]):
        part = ImageOps.fit(picture.convert("RGB"), (width, height))
        square.paste(part, (place % columns * width, place // columns * height))
    return square


def opaque(png: bytes) -> bytes:
    """The picture without its transparency."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
