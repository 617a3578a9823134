"""Pictures to measure with: the same on every machine, made of nothing but arithmetic."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
BASE_PX = 1024
SIZES_PX = (256, 512, 1024, 2048, 4096)


def photo(side: int) -> Floats:
    """`[1,side,side,3]`, 0..1: waves of all lengths as in nature (amplitude 1/f), a lens's blur, a sensor's noise.

    More than `BASE_PX` are that many, enlarged.
    """
    rng = np.random.default_rng(7)
    base = min(side, BASE_PX)
    frequency = np.hypot(np.fft.fftfreq(base)[:, None], np.fft.rfftfreq(base))
    frequency[0, 0] = np.inf
    blur = np.exp(-((frequency / 0.18) ** 2)) / frequency
    waves = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((base, base))) * blur, (base, base)) for _ in range(4)]
    light, *colours = (wave / wave.std() for wave in waves)
    picture = np.empty((1, side, side, 3), np.float32)
    for channel, colour in enumerate(colours):
        plane = Image.fromarray((0.5 + 0.24 * light + 0.06 * colour).astype(np.float32))
        enlarged = np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC))
        noise = rng.standard_normal((side, side), np.float32) * np.float32(2 / 255)
        picture[0, ..., channel] = np.clip(enlarged + noise, 0, 1)
    return picture


def flat_art(side: int) -> Floats:
    """`[1,side,side,3]`, 0..1: stars, discs and boxes of one colour each, outlined, with soft edges."""
    rng = np.random.default_rng(3)
    large = 2 * side
    image = Image.new("RGB", (large, large), (250, 240, 220))
    draw = ImageDraw.Draw(image)
    for number in range(60):
        x, y, radius = (int(value) for value in rng.integers((0, 0, side // 50), (large, large, side // 5)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        if number % 3 == 0:
            draw.circle((x, y), radius, fill=colour, outline=(20, 20, 30), width=side // 170)
        elif number % 3 == 1:
            angles = np.arange(5) * 0.8 * np.pi
            points = [(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles]
            draw.polygon(points, fill=colour, outline=(20, 20, 30), width=side // 200)
        else:
            draw.rounded_rectangle((x - radius, y - radius // 2, x + radius, y + radius // 2), side // 30, fill=colour)
    small = image.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32)[None] / np.float32(255)


def mask(side: int) -> Floats:
    """`[1,side,side]`: a disc in the middle is painted."""
    places = np.linspace(-1, 1, side, dtype=np.float32)
    return (np.hypot(places[:, None], places) < 0.5).astype(np.float32)[None]


def png_files(count: int, side: int) -> list[bytes]:
    """Photos as PNG files, each a little different, written by Pillow as servers do."""
    pixels = np.rint(photo(side)[0] * 255).astype(np.uint8)
    files = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(np.roll(pixels, number * 37, axis=0)).save(file, "PNG")
        files.append(file.getvalue())
    return files
