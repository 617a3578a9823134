"""`python -m development.artwork`: the icon and the banner for the registry, in the shapes that it asks for.

A node with a picture in it, which the emulator's painter draws. Its words are set in Pillow's own font.
"""

from __future__ import annotations

from itertools import pairwise

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from development.emulator.scenery import draw_scene
from development.package import ROOT

FOLDER = ROOT / "docs" / "images"
ICON_PX = (400, 400)
BANNER_PX = (1260, 540)  # 21:9
# Drawn larger and scaled down, which smooths the edges.
OVERSAMPLING = 3

NIGHT, BODY, TITLE_BAR, EDGE = (24, 26, 33), (44, 47, 56), (58, 62, 74), (92, 98, 114)
BLUE, GREEN, WHITE, GREY = (100, 181, 246), (129, 199, 132), (245, 247, 250), (196, 202, 212)
SUNSET, DUSK = "A lighthouse on a cliff at dawn, in watercolour", "A quiet harbour"

Box = tuple[float, float, float, float]


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)


def icon() -> Image.Image:
    """A node with a picture, on a dark tile with round corners; RGBA."""
    scale = OVERSAMPLING
    size = (ICON_PX[0] * scale, ICON_PX[1] * scale)
    tile = Image.new("RGB", size, NIGHT)
    _link(tile, [(0, 172), (40, 172), (52, 172)], BLUE, scale)
    _link(tile, [(348, 172), (360, 172), (400, 172)], BLUE, scale)
    _node(tile, (52, 64, 348, 340), SUNSET, scale)
    tile.putalpha(_round_mask(size, 72 * scale))
    return tile.resize(ICON_PX, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The name beside two nodes, before hills in the evening; RGB."""
    scale = OVERSAMPLING
    size = (BANNER_PX[0] * scale, BANNER_PX[1] * scale)
    scene, _ = draw_scene(DUSK, 0, BANNER_PX)
    # Mirrored, the moon is behind the node and not behind the words.
    ground = ImageOps.mirror(scene.convert("RGB")).filter(ImageFilter.GaussianBlur(3)).resize(size)
    picture = Image.blend(ground, Image.new("RGB", size, NIGHT), 0.62)
    _link(picture, [(0, 440), (420, 440), (600, 440), (690, 440), (660, 200), (760, 200)], BLUE, scale)
    _link(picture, [(1150, 200), (1210, 200), (1200, 250), (1260, 250)], BLUE, scale)
    _node(picture, (760, 92, 1150, 452), SUNSET, scale)
    draw = ImageDraw.Draw(picture)
    for text, top, height, ink in (
        ("OpenAI DALL·E 2", 176, 66, WHITE),
        ("The node for ComfyUI, back at work:", 278, 30, GREY),
        ("saved workflows run on today's models.", 318, 30, GREY),
    ):
        draw.text((72 * scale, top * scale), text, font=ImageFont.load_default(height * scale), fill=ink)
    return picture.resize(BANNER_PX, Image.Resampling.LANCZOS)


def _node(picture: Image.Image, box: Box, prompt: str, scale: int) -> None:
    """Draw a node of ComfyUI with a picture in it: title bar, two inputs, one output."""
    left, top, right, bottom = (value * scale for value in box)
    draw = ImageDraw.Draw(picture)
    radius, bar, margin, dot = 20 * scale, 40 * scale, 34 * scale, 10 * scale
    draw.rounded_rectangle((left, top, right, bottom), radius, fill=BODY, outline=EDGE, width=2 * scale)
    draw.rounded_rectangle((left, top, right, top + bar), radius, fill=TITLE_BAR, corners=(True, True, False, False))
    _dot(draw, (left + bar * 0.6, top + bar / 2), dot * 0.8, GREEN)
    frame = (round(left + margin), round(top + bar + margin * 0.6), round(right - margin), round(bottom - margin * 0.6))
    size = (frame[2] - frame[0], frame[3] - frame[1])
    scene, _ = draw_scene(prompt, 0, size)
    picture.paste(scene.convert("RGB"), frame[:2], _round_mask(size, 12 * scale))
    middle = top + bar + 68 * scale
    for x, y, ink in ((left, middle, BLUE), (left, middle + 44 * scale, GREEN), (right, middle, BLUE)):
        _dot(draw, (x, y), dot, ink)


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, ink: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _link(picture: Image.Image, points: list[tuple[float, float]], ink: tuple[int, int, int], scale: int) -> None:
    """Draw a link as a smooth curve: Bézier's, of as many points as are given."""
    curve = [_bezier(points, step / 60) for step in range(61)]
    ImageDraw.Draw(picture).line([(x * scale, y * scale) for x, y in curve], fill=ink, width=7 * scale, joint="curve")


def _bezier(points: list[tuple[float, float]], part: float) -> tuple[float, float]:
    while len(points) > 1:
        points = [(a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part) for a, b in pairwise(points)]
    return points[0]


def _round_mask(size: tuple[int, int], radius: int) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=255)
    return mask


if __name__ == "__main__":
    main()
