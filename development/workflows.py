"""Workflows with the node in ComfyUI's API format, and a photo to try inpainting on."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from development.emulator.painter import draw_scene
from development.package import ROOT

# As the editor saves them: for users, and for the tests and the screenshots.
EXAMPLES = ROOT / "example_workflows"
SAVED = ROOT / "tests" / "workflows"

Workflow = dict[str, dict[str, Any]]


def text_to_image(prompt: str, *, prefix: str = "dalle2", **inputs: Any) -> Workflow:
    """Node 1 draws, with `inputs` beside the usual ones; node 2 saves to `output/<prefix>_00001_.png`."""
    usual = {"seed": 0, "size": "1024x1024", "n": 1}
    return {
        "1": {"class_type": "OpenAIDalle2", "inputs": {"prompt": prompt, **usual, **inputs}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def inpainting(prompt: str, image_name: str, *, prefix: str = "dalle2-inpainting", **inputs: Any) -> Workflow:
    """The same, drawing into the transparent parts of `input/<image_name>`, which node 3 loads."""
    graph = text_to_image(prompt, prefix=prefix, image=["3", 0], mask=["3", 1], **inputs)
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": image_name}}
    return graph


def example_photo(side: int = 1024, scene: str = "A calm sea") -> bytes:
    """An RGBA PNG of a scene, `side` pixels square, whose mask is a transparent oval in the middle."""
    image = draw_scene(scene, 0, (side, side))
    alpha = Image.new("L", image.size, 255)
    ImageDraw.Draw(alpha).ellipse([round(side * part) for part in (0.08, 0.07, 0.92, 0.83)], fill=0)
    # An edge of a few pixels, as a brush paints it.
    image.putalpha(alpha.filter(ImageFilter.GaussianBlur(side / 512)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
