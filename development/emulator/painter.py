"""Landscapes that show what arrived: words of the prompt choose the scene, a caption repeats the request.

The same prompt, index and size always give the same pixels, and another index gives a clearly different picture.
"""

from __future__ import annotations

import hashlib
import re
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

Size = tuple[int, int]
Colour = tuple[int, int, int]
# The colours of the sky at its top and at the horizon, of sun or moon, and of land or water, far away and near by.
Palette = tuple[Colour, Colour, Colour, Colour, Colour]
DAYS: tuple[Palette, ...] = (
    ((72, 132, 196), (236, 240, 232), (255, 250, 226), (150, 182, 204), (24, 62, 88)),
    ((98, 178, 186), (250, 238, 206), (255, 252, 232), (146, 190, 174), (22, 74, 70)),
    ((112, 124, 176), (250, 214, 216), (255, 244, 236), (170, 152, 190), (52, 42, 84)),
    ((84, 94, 112), (226, 220, 210), (252, 248, 238), (152, 158, 166), (38, 46, 56)),
)
SUNSETS: tuple[Palette, ...] = (
    ((52, 36, 104), (255, 150, 96), (255, 232, 168), (166, 88, 120), (34, 18, 52)),
    ((176, 76, 88), (255, 208, 128), (255, 244, 204), (196, 104, 92), (62, 24, 42)),
    ((24, 72, 118), (252, 186, 132), (255, 234, 196), (112, 118, 146), (16, 38, 62)),
)
NIGHTS: tuple[Palette, ...] = (
    ((8, 14, 40), (58, 92, 146), (240, 243, 250), (48, 74, 118), (6, 11, 28)),
    ((22, 16, 52), (104, 70, 138), (250, 232, 236), (82, 56, 116), (16, 10, 34)),
    ((4, 24, 36), (38, 108, 116), (236, 248, 240), (28, 82, 92), (4, 18, 26)),
)
CARD, INK, WARM = (14, 18, 28, 176), (255, 255, 255), (255, 190, 90)
MIN_CARD_AREA: Size = (96, 48)  # in less than that, a caption hides the picture and cannot be read


def draw_scene(prompt: str, index: int, size: Size) -> Image.Image:
    """Return the landscape, RGB, for a prompt and a picture's index in its answer."""
    number = int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:4], "big")
    rng = np.random.default_rng([number, index])
    words = set(re.findall(r"\w+", prompt.casefold()))
    palettes = NIGHTS if words & {"moon", "moonlit", "night"} else SUNSETS if "sunset" in words else DAYS
    # The pictures of an answer take turns in colours and in where the sun stands.
    palette = palettes[(number + index) % len(palettes)]
    sun = (size[0] * (0.2 + 0.6 * ((number % 89 / 89 + index * 0.382) % 1)), size[1] * rng.uniform(0.16, 0.36))
    picture = _sky(palette, size, sun)
    has_mountains, has_sea = bool(words & {"mountain", "mountains"}), bool(words & {"sea", "ocean"})
    if not has_mountains and not has_sea:
        has_mountains, has_sea = number % 3 != 0, number % 3 != 1
    if has_mountains:
        _add_ridges(picture, palette, rng)
    if has_sea:
        _add_sea(picture, palette, sun[0], rng, horizon=0.72 if has_mountains else 0.55)
    return picture


def _sky(palette: Palette, size: Size, sun: tuple[float, float]) -> Image.Image:
    zenith, horizon, light, *_ = palette
    picture = Image.new("RGB", size, horizon)
    picture.paste(_ramp(zenith, horizon, (size[0], round(size[1] * 0.65))))
    radius = min(size) * 0.055
    # Pillow's radial gradient grows from 0 in the middle to 181 where a circle touches the sides.
    glow = Image.radial_gradient("L").point([round(150 * max(0, 1 - d / 181) ** 2) for d in range(256)])
    # Steep enough to fall from full to nothing within about a pixel.
    disc = Image.radial_gradient("L").point([min(255, round(max(0, 181 - d) * radius * 1.4)) for d in range(256)])
    for mask, reach in ((glow, radius * 12), (disc, radius)):
        mask = mask.resize((round(reach * 2), round(reach * 2)))
        picture.paste(light, (round(sun[0] - reach), round(sun[1] - reach)), mask)
    return picture


def _add_ridges(picture: Image.Image, palette: Palette, rng: np.random.Generator) -> None:
    _, horizon, _, far, near = palette
    width, height = picture.size
    x, rows = np.linspace(0, width / height, width), np.arange(height, dtype=np.float32)[:, None]
    for nearness in (0.0, 0.25, 0.5, 0.75, 1.0):
        crest = np.full(width, 0.5 + 0.36 * nearness, np.float32)
        for octave in range(6):
            # Peaks are pointed, valleys round.
            slope = np.abs(np.sin(x * (3.4 - nearness) * 1.9**octave + rng.uniform(0, np.pi)))
            crest += 0.16 * 0.44**octave * (slope - 0.6)
        mask = ((rows - crest * height + 0.5) * 255).clip(0, 255).astype(np.uint8)  # below the crest, with a soft edge
        # Mist lies in the valleys, and less of it the nearer they are.
        colour = _mix(far, near, nearness)
        ridge = _ramp(colour, _mix(colour, horizon, 0.5 * (1 - nearness)), picture.size)
        picture.paste(ridge, mask=Image.fromarray(mask))


def _add_sea(picture: Image.Image, palette: Palette, sun_x: float, rng: np.random.Generator, *, horizon: float) -> None:
    _, _, light, far, near = palette
    width, height = picture.size
    top = round(horizon * height)
    picture.paste(_ramp(_mix(far, near, 0.15), near, (width, height - top)), (0, top))
    draw = ImageDraw.Draw(picture, "RGBA")
    for y in np.arange(horizon + 0.008, 1, 0.012):
        reach = (0.03 + 0.25 * (y - horizon)) * rng.uniform(0.2, 1) * width
        middle = sun_x + rng.normal(0, 0.02) * width
        box = (middle - reach, y * height, middle + reach, (y + 0.003) * height)
        draw.ellipse(box, (*light, round(170 * (1 - y) / (1 - horizon))))


def _ramp(top: Colour, bottom: Colour, size: Size) -> Image.Image:
    """Return a picture that goes from one colour to another."""
    column = Image.linear_gradient("L").resize((1, size[1]))
    return ImageOps.colorize(column, top, bottom).resize(size)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def add_caption(picture: Image.Image, prompt: str, note: str, area: tuple[int, int, int, int] | None = None) -> None:
    """Write a card with the prompt and a note into the lower left, or into the middle of an area.

    Pillow's own font has no Chinese, Japanese or Korean letters: these show as boxes.
    """
    left, top, right, bottom = area or (0, 0, *picture.size)
    if right - left < MIN_CARD_AREA[0] or bottom - top < MIN_CARD_AREA[1]:
        return
    text_px = max(10, round(min(right - left, bottom - top) * 0.036))
    gap = text_px // 2
    columns = min(56, max(8, int((right - left - 4 * gap) / text_px * 1.7)))
    lines = textwrap.wrap(prompt[:400], columns, max_lines=3, placeholder=" ...")
    text = "\n".join([*lines, *textwrap.wrap(note, columns)])
    font = ImageFont.load_default(text_px)
    draw = ImageDraw.Draw(picture, "RGBA")
    _, _, width, height = draw.multiline_textbbox((0, 0), text, font)
    x = (left + right - width) / 2 if area else left + 2 * gap
    y = (top + bottom - height) / 2 if area else bottom - 2 * gap - height
    draw.rectangle((x - gap, y - gap, x + width + gap, y + height + gap), CARD)
    draw.multiline_text((x, y), text, INK, font)


def redrawn(picture: Image.Image) -> Image.Image:
    """Return a picture as a model of today hands back what it was to keep: a little warmer."""
    return Image.blend(picture, Image.new("RGB", picture.size, WARM), 0.1)
