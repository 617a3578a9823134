"""Landscapes in numpy: a sky with its sun or moon, ridges that come nearer, at times a lake and trees.

The land's cover, [H, W] uint8, is 0 in the sky and 255 below the skyline.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from .palettes import Colour, Composition, compose, seeded

Pixels = npt.NDArray[np.uint8]
Heights = npt.NDArray[np.float64]

# The light of the sky is smooth: it is worked out on a coarse grid and stretched.
_GRID = 4


def draw_scene(prompt: str, index: int, size: tuple[int, int]) -> tuple[Image.Image, Heights]:
    """Return the landscape for a prompt and a picture's index in its answer, and its skyline (rows)."""
    width, height = size
    view = compose(prompt, index)
    rng = seeded(prompt, index, "land")
    canvas = Image.fromarray(_sky(view, width, height, rng))
    skyline = np.full(width, float(height))
    for layer in range(view.ridges):
        nearness = layer / (view.ridges - 1)
        crest = _crest(view, nearness, width, height, rng)
        if view.trees and layer == view.ridges - 1:
            crest = crest - _trees(width, height, rng)
        skyline = np.minimum(skyline, crest)
        _fill_below(canvas, crest, *_ridge_colours(view, nearness))
        if view.lake and layer == view.ridges - 2:
            _flood(canvas, view, rng)
    return canvas, skyline


def land_cover(skyline: Heights, height: int) -> Pixels:
    """Return how much of each pixel is land, given the skyline of a scene."""
    return _cover(skyline, 0, height)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _ramp(top: Colour, bottom: Colour, rows: int) -> npt.NDArray[np.float32]:
    shares = np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:, None]
    return np.asarray(top, np.float32) * (1 - shares) + np.asarray(bottom, np.float32) * shares


def _sky(view: Composition, width: int, height: int, rng: np.random.Generator) -> Pixels:
    rows, columns = -(-height // _GRID) + 1, -(-width // _GRID) + 1
    scale = min(width, height) / _GRID
    y, x = np.ogrid[:rows, :columns]
    distance = np.hypot(x - view.sun_x * columns, y - view.sun_y * rows).astype(np.float32) / scale
    light = _ramp(view.palette.zenith, view.palette.horizon, rows)[:, None, :].repeat(columns, axis=1)
    glow = (0.62 * np.exp(-4.2 * distance))[..., None]
    light += (np.asarray(view.palette.sun, np.float32) - light) * glow
    if view.clouds:
        _add_clouds(light, rng)
    sky = _stretch(light, width, height)
    if view.palette.night:
        _add_stars(sky, rng)
    _add_sun(sky, view)
    return sky


def _stretch(light: npt.NDArray[np.float32], width: int, height: int) -> Pixels:
    coarse = Image.fromarray(np.clip(light + 0.5, 0, 255).astype(np.uint8))
    box = (0, 0, width / _GRID, height / _GRID)
    return np.array(coarse.resize((width, height), Image.Resampling.BILINEAR, box))


def _add_clouds(light: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    rows, columns = light.shape[:2]
    y, x = np.ogrid[:rows, :columns]
    for _ in range(int(rng.integers(3, 7))):
        centre_y, centre_x = rng.uniform(0.06, 0.36) * rows, rng.uniform(0, 1) * columns
        length, depth = rng.uniform(0.1, 0.28) * columns, rng.uniform(0.006, 0.016) * rows
        wave = centre_y + depth * np.sin(x / columns * rng.uniform(8, 16) + rng.uniform(0, 6))
        veil = np.exp(-(((x - centre_x) / length) ** 2) - ((y - wave) / depth) ** 2)
        light += (255 - light) * (0.42 * veil.astype(np.float32))[..., None]


def _add_stars(sky: Pixels, rng: np.random.Generator) -> None:
    height, width = sky.shape[:2]
    count = 40 + width * height // 5000
    rows = (rng.random(count) ** 1.4 * height * 0.6).astype(np.intp)
    columns = rng.integers(0, width, count)
    shine = rng.uniform(0.25, 1, count)[:, None]
    sky[rows, columns] = sky[rows, columns] + ((255 - sky[rows, columns]) * shine).astype(np.uint8)


def _add_sun(sky: Pixels, view: Composition) -> None:
    height, width = sky.shape[:2]
    radius = view.sun_radius * min(width, height)
    centre_x, centre_y = view.sun_x * width, view.sun_y * height
    top, left = max(int(centre_y - radius) - 2, 0), max(int(centre_x - radius) - 2, 0)
    patch = sky[top : int(centre_y + radius) + 3, left : int(centre_x + radius) + 3]
    y, x = np.ogrid[: patch.shape[0], : patch.shape[1]]
    x, y = x + left - centre_x, y + top - centre_y
    disc = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
    if view.palette.night:
        # The night's sun is a crescent: a disc from which another one is taken away.
        disc = disc * np.clip(np.hypot(x - radius * 0.5, y + radius * 0.2) - radius * 0.85 + 0.5, 0, 1)
    patch[:] = (patch + (np.asarray(view.palette.sun) - patch) * disc[..., None]).astype(np.uint8)


def _crest(view: Composition, nearness: float, width: int, height: int, rng: np.random.Generator) -> Heights:
    """Return the line of one ridge, as rows from the top: a few waves, each finer and lower than the last."""
    x = np.linspace(0, 1, width) * width / height
    line = np.zeros(width)
    for octave in range(6):
        frequency = 2.2 * 1.9**octave * (1.25 - 0.5 * nearness)
        strength = (0.30 + 0.16 * view.roughness) ** octave
        line += strength * np.sin(frequency * x * np.pi + rng.uniform(0, 2 * np.pi))
    base = view.horizon + (0.93 - view.horizon) * nearness**1.15
    crest: Heights = (base + line * (0.055 + 0.02 * view.roughness)) * height
    return crest


def _trees(width: int, height: int, rng: np.random.Generator) -> Heights:
    """Return how far the conifers of the nearest ridge rise above it, in rows."""
    x = np.arange(width, dtype=float)
    rise = np.zeros(width)
    place = 0.0
    while place < width:
        tall = rng.uniform(0.035, 0.10) * height
        reach = tall * rng.uniform(0.20, 0.28)
        near = np.abs(x - place) / reach
        notches = 0.05 * tall * np.abs(np.sin(near * 9))
        rise = np.maximum(rise, np.where(near < 1, tall * (1 - near) - notches, 0))
        place += reach * rng.uniform(0.5, 2.4) + (rng.random() < 0.18) * 0.14 * width
    return rise


def _ridge_colours(view: Composition, nearness: float) -> tuple[Colour, Colour]:
    tone = _mix(view.palette.far, view.palette.near, nearness**0.8)
    # Mist lies in the valleys, and less of it the nearer they are.
    return tone, _mix(tone, view.palette.horizon, 0.42 * (1 - nearness))


def _fill_below(canvas: Image.Image, crest: Heights, top: Colour, bottom: Colour) -> None:
    """Paint everything below a line, with a smooth edge, in a ramp from its highest point down."""
    width, height = canvas.size
    first, last = (int(np.clip(v, 0, height)) for v in (np.floor(crest.min()), np.ceil(crest.max()) + 1))
    if first == height:
        return
    ramp = (_ramp(top, bottom, height - first) + 0.5).astype(np.uint8)
    strip = Image.fromarray(ramp[:, None]).resize((width, height - first), Image.Resampling.NEAREST)
    cover = _cover(crest, first, last)
    canvas.paste(strip.crop((0, 0, width, last - first)), (0, first), Image.fromarray(cover))
    canvas.paste(strip.crop((0, last - first, width, height - first)), (0, last))


def _cover(line: Heights, first: int, last: int) -> Pixels:
    """Return how much of each pixel of the rows from `first` to `last` lies below a line, 0..255."""
    rows = np.arange(first, last, dtype=np.float32)[:, None]
    cover: Pixels = np.clip((rows - line.astype(np.float32) + 0.5) * 255, 0, 255).astype(np.uint8)
    return cover


def _flood(canvas: Image.Image, view: Composition, rng: np.random.Generator) -> None:
    """Mirror what is above the shore into the water below it, darker and rippled."""
    width, height = canvas.size
    shore = int((view.horizon + 0.24) * height)
    rows = np.arange(height - shore)
    ripple = np.sin(rows * 40 / height + 2.2 * np.sin(rows * 9 / height)) * rows * 0.05
    source = np.clip(shore - 1 - rows * 1.25, 0, shore - 1).astype(np.intp)
    shift = (ripple + rng.uniform(-1, 1, rows.size) * 0.004 * width * rows / height).astype(np.intp)
    columns = (np.arange(width)[None, :] + shift[:, None]).clip(0, width - 1)
    above = np.asarray(canvas.crop((0, 0, width, shore)))
    mirror = Image.fromarray(above[source[:, None], columns])
    water = Image.new("RGB", mirror.size, _mix(view.palette.zenith, view.palette.near, 0.35))
    depth = np.linspace(0.16, 0.5, rows.size)[:, None] * np.full(width, 255.0)
    canvas.paste(Image.composite(water, mirror, Image.fromarray(depth.astype(np.uint8))), (0, shore))
