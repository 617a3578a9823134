"""Workflows with the node in ComfyUI's API format, and a photo to try inpainting on."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from development.package import ROOT

# As the editor saves them: for users, and for the tests and the screenshots.
EXAMPLES = ROOT / "example_workflows"
SAVED = ROOT / "tests" / "workflows"

Workflow = dict[str, dict[str, Any]]


def text_to_image(
    prompt: str, *, size: str = "1024x1024", n: int = 1, seed: int = 0, prefix: str = "dalle2"
) -> Workflow:
    """Node 1 draws, node 2 saves to `output/<prefix>_00001_.png`."""
    inputs = {"prompt": prompt, "seed": seed, "size": size, "n": n}
    return {"1": {"class_type": "OpenAIDalle2", "inputs": inputs}, "2": _save("1", prefix)}


def inpainting(
    prompt: str,
    image_name: str,
    *,
    size: str = "1024x1024",
    n: int = 1,
    seed: int = 0,
    prefix: str = "dalle2-inpainting",
) -> Workflow:
    """Node 1 draws into the transparent parts of `input/<image_name>`, node 2 saves, node 3 loads."""
    inputs = {"prompt": prompt, "seed": seed, "size": size, "n": n, "image": ["3", 0], "mask": ["3", 1]}
    return {
        "1": {"class_type": "OpenAIDalle2", "inputs": inputs},
        "2": _save("1", prefix),
        "3": {"class_type": "LoadImage", "inputs": {"image": image_name}},
    }


def _save(node_id: str, prefix: str) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [node_id, 0], "filename_prefix": prefix}}


def example_photo(side: int = 1024) -> bytes:
    """An RGBA PNG of hills at dusk, `side` pixels square, with a transparent oval in its sky as the mask."""
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    picture = _sky(x, y)
    # From far to near: where the ridge is, how rugged it is, and its colour.
    for ridge, height, colour in (
        (0.62, 0.050, (150, 112, 140)),
        (0.72, 0.060, (104, 82, 120)),
        (0.83, 0.045, (58, 54, 88)),
        (0.93, 0.030, (28, 32, 54)),
    ):
        line = ridge + height * (np.sin(9 * x + 40 * ridge) + 0.4 * np.sin(23 * x + 90 * ridge))
        # A ridge is as soft as a pixel, and the haze below it lightens with the distance.
        cover = np.clip((y - line) * side, 0, 1)[..., None]
        haze = np.clip((y - line) * 1.5, 0, 0.25)[..., None] * (1 - ridge) * 255
        picture = picture * (1 - cover) + (np.array(colour) + haze) * cover
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image.putalpha(_hole(side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _sky(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A gradient from blue over rose to gold, with the sun low on the right."""
    heights = [0.0, 0.35, 0.62]
    channels = [(54, 196, 255), (82, 144, 196), (138, 150, 120)]
    sky = np.stack([np.interp(y, heights, values) for values in channels], axis=-1)
    distance = np.hypot(x - 0.76, y - 0.50)[..., None]
    glow = np.exp(-distance * 6) * np.array([90.0, 70.0, 30.0])
    disc = np.clip((0.05 - distance) * 200, 0, 1)
    return np.asarray((sky + glow) * (1 - disc) + np.array([255, 244, 214]) * disc)


def _hole(side: int) -> Image.Image:
    """The alpha channel: transparent in an oval of the left sky, with an edge of a few pixels."""
    alpha = Image.new("L", (side, side), 255)
    box = [round(side * part) for part in (0.08, 0.06, 0.54, 0.55)]
    ImageDraw.Draw(alpha).ellipse(box, fill=0)
    return alpha.filter(ImageFilter.GaussianBlur(side / 512))
