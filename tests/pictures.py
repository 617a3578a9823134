"""Images as ComfyUI's own nodes read and write them, and image files, also of kinds that only servers make."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(*shape: int, seed: int = 1) -> NDArray[np.uint8]:
    """Pixels of all values."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def loaded(pixels: NDArray[np.uint8]) -> Tensor:
    """What LoadImage makes of pixels."""
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


def saved(image: Tensor) -> NDArray[np.uint8]:
    """What SaveImage writes: it truncates."""
    return np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8)


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return (tensor * 255).round().to(torch.uint8).numpy()


def picture(*shape: int, seed: int = 1) -> Image.Image:
    return Image.fromarray(noise(*shape, seed=seed))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    """The pixels of a file, in the file's own mode and direction."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def png(size: tuple[int, int] = (8, 8), colour: Any = "red", mode: str = "RGB") -> bytes:
    """A PNG file of one colour."""
    return file_of(Image.new(mode, size, colour))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, depth: int, colour: int, data: bytes, *extra: bytes) -> bytes:
    """A PNG file made by hand; `data` are its rows, each behind its filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png_of_16_bits(values: NDArray[Any], *extra: bytes) -> bytes:
    """A PNG file with 16 bits a channel: grey, grey with alpha, RGB or RGBA, as `values` `[H,W,C]` has channels."""
    height, width, channels = values.shape
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png_of(width, height, 16, colour, data, *extra)


RED, BLACK = Image.new("RGB", (2, 1), "red"), Image.new("RGB", (2, 1))
GLASS = Image.new("RGBA", (2, 1), (1, 2, 3, 4))
PALETTE = chunk(b"PLTE", bytes([9, 9, 9, 4, 5, 6]))

# A file of each kind of pixel, and the first pixel in it.
KINDS: dict[str, tuple[bytes, list[int]]] = {
    "black and white": (file_of(Image.new("1", (2, 1), 1)), [255, 255, 255]),
    "grey": (file_of(Image.new("L", (2, 1), 77)), [77, 77, 77]),
    "grey with alpha": (file_of(Image.new("LA", (2, 1), (77, 88))), [77, 77, 77, 88]),
    "grey with a transparent value": (png_of(2, 1, 8, 0, b"\0\7\7", chunk(b"tRNS", b"\0\7")), [7, 7, 7, 0]),
    "colour with a transparent one": (png_of(1, 1, 8, 2, b"\0\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3")), [1, 2, 3, 0]),
    "palette": (png_of(2, 1, 8, 3, b"\0\1\1", PALETTE), [4, 5, 6]),
    "palette with transparency": (png_of(2, 1, 8, 3, b"\0\1\1", PALETTE, chunk(b"tRNS", b"\xff\x80")), [4, 5, 6, 128]),
    "palette of 16 colours": (png_of(2, 1, 4, 3, b"\0\x11", PALETTE), [4, 5, 6]),
    "opaque alpha": (file_of(Image.new("RGBA", (2, 1), (1, 2, 3, 255))), [1, 2, 3]),
    "ink": (file_of(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"), [255, 255, 255]),
    "grey JPEG": (file_of(Image.new("L", (16, 16), 77), "JPEG"), [77, 77, 77]),
    "transparent WebP": (file_of(GLASS, "WEBP", lossless=True, exact=True), [1, 2, 3, 4]),
    "animated PNG": (file_of(RED, save_all=True, append_images=[BLACK]), [255, 0, 0]),
    "animated WebP": (file_of(RED, "WEBP", save_all=True, append_images=[BLACK], lossless=True), [255, 0, 0]),
}
