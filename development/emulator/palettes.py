"""Colours and composition of a picture, drawn from a seed: the same words always give the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Colours from the top of the sky down to the nearest ridge."""

    zenith: Colour
    horizon: Colour
    sun: Colour
    far: Colour
    near: Colour
    night: bool = False


PALETTES: tuple[Palette, ...] = (
    Palette((58, 96, 158), (253, 217, 181), (255, 244, 214), (158, 172, 200), (28, 48, 74)),
    Palette((36, 24, 84), (246, 132, 104), (255, 226, 160), (150, 84, 128), (32, 16, 48)),
    Palette((120, 190, 214), (244, 246, 226), (255, 252, 236), (150, 196, 184), (22, 74, 66)),
    Palette((8, 14, 40), (48, 78, 128), (236, 240, 250), (44, 66, 110), (6, 10, 26), night=True),
    Palette((242, 158, 76), (255, 231, 176), (255, 250, 230), (214, 140, 92), (84, 38, 38)),
    Palette((84, 116, 168), (250, 198, 212), (255, 240, 232), (176, 152, 192), (58, 44, 86)),
    Palette((14, 52, 66), (166, 214, 176), (246, 250, 214), (84, 142, 128), (8, 36, 42)),
    Palette((204, 92, 84), (252, 206, 146), (255, 238, 190), (186, 98, 96), (60, 24, 44)),
    Palette((26, 18, 56), (112, 62, 128), (250, 222, 232), (88, 54, 116), (18, 10, 36), night=True),
    Palette((92, 164, 220), (255, 238, 204), (255, 255, 244), (136, 186, 206), (38, 92, 92)),
    Palette((66, 74, 90), (222, 214, 202), (250, 244, 232), (150, 154, 160), (40, 46, 54)),
    Palette((16, 70, 110), (248, 190, 140), (255, 232, 190), (96, 124, 148), (14, 40, 62)),
)


@dataclass(frozen=True)
class Composition:
    """What a picture shows; positions and heights are fractions of its sides."""

    palette: Palette
    sun_x: float
    sun_y: float
    sun_radius: float
    ridges: int
    roughness: float
    horizon: float
    lake: bool
    trees: bool
    clouds: bool


def seeded(*words: object) -> np.random.Generator:
    """Return a random generator that depends on the words alone."""
    digest = hashlib.sha256("\x1f".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def compose(prompt: str, index: int) -> Composition:
    """Return the composition for a prompt. The palettes of an answer's pictures never repeat at once."""
    first = int(seeded(prompt).integers(len(PALETTES)))
    rng = seeded(prompt, index)
    # 5 has no factor in common with the number of palettes, so that the pictures step through all of them.
    palette = PALETTES[(first + 5 * index) % len(PALETTES)]
    lake = bool(rng.random() < 0.45)
    return Composition(
        palette=palette,
        sun_x=float(rng.uniform(0.18, 0.82)),
        sun_y=float(rng.uniform(0.16, 0.42)),
        sun_radius=float(rng.uniform(0.045, 0.085)),
        ridges=int(rng.integers(4, 7)),
        roughness=float(rng.uniform(0.35, 1.0)),
        horizon=float(rng.uniform(0.40, 0.54)),
        lake=lake,
        trees=bool(rng.random() < 0.6),
        clouds=not palette.night,
    )
