"""Between ComfyUI's tensors and the pictures on the wire.

An IMAGE is `[B,H,W,C]` and a MASK `[B,H,W]`, both floating point, 0..1, a mask's 1 meaning "replace"; on the wire a
picture is RGBA with 8 bits a channel, where alpha 0 means the same. Values are clamped, scaled by 255 and rounded to
the nearest; nothing is dropped in silence: what does not fit raises ValueError with the shape that came.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .png import write_png
from .tensors import resize, resize_mask, single_image, single_mask, with_alpha, within
from .threads import WORKERS, side_by_side

MAX_PIXELS = 1536 * 1024  # of a picture that goes out; more would only cost time, no model draws from it
MAX_DECODED_PIXELS = 4096 * 4096  # of a picture that comes in: twice the largest that OpenAI draws
MAX_JPEG_SCANS = 100  # progressive files have about ten; each is a pass over the whole picture, and takes its time
THUMBNAIL_SIDE_PX = 512
BAND_ROWS = 64  # are turned into floats or bytes at a time: a whole picture would be in memory twice meanwhile
FORMATS = ("PNG", "JPEG", "WEBP")

Pixels: TypeAlias = NDArray[np.uint8]  # [H,W,C]

# What Pillow lets out about bytes that are no picture, or a damaged one: its parsers stumble in many ways.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,  # where the process has made errors of them
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_decoding = threading.BoundedSemaphore(WORKERS)  # in the whole process: it bounds the memory of many downloads


class PictureError(ValueError):
    """Bytes that are no picture this codec reads."""


def encode_rgba_png(image: Tensor, mask: Tensor | None = None) -> bytes:
    """An image as an RGBA PNG file whose alpha is 1 - mask.

    `image` is `[1,H,W,3|4]` or `[H,W,3|4]`, `mask` `[1,H,W]` or `[H,W]` of the same height and width; any floating
    dtype, any device. Without a mask, alpha is the image's own, or 1. More than `MAX_PIXELS` are scaled down to that
    many, colour and mask apart. Raises ValueError for other shapes, other dtypes and NaN.
    """
    pixels = single_image(image)
    size = within(MAX_PIXELS, *pixels.shape[:2])
    if mask is None:
        scaled = with_alpha(resize(pixels[None], *size)[0]).numpy()
        return _png(scaled[..., :3], scaled[..., 3])
    alpha = 1 - resize_mask(single_mask(mask, pixels.shape[:2]), *size).numpy()
    return _png(resize(pixels[None, ..., :3], *size)[0].numpy(), alpha)


def encode_mask_png(mask: Tensor) -> bytes:
    """A mask as the one RGBA PNG file that every server understands: where to edit, white with alpha 0, else black
    with alpha 255. Any painted pixel counts as "edit".

    `mask` is `[1,H,W]` or `[H,W]`; it is scaled down as `encode_rgba_png` scales the image. Raises ValueError likewise.
    """
    values = single_mask(mask)
    edit = (resize_mask(values, *within(MAX_PIXELS, *values.shape)).numpy() > 0).astype(np.float32)
    return _png(np.broadcast_to(edit[..., None], (*edit.shape, 3)), 1 - edit)


def decode_images(pictures: Sequence[bytes]) -> Tensor:
    """PNG, JPEG or WebP files as one tensor `[N,H,W,C]`, float32, 0..1, all of them in the size of the first.

    C is 4 if any picture has transparency, else 3; of an animation, the first picture counts. Raises PictureError for
    bytes that are no such picture, for one of more than `MAX_DECODED_PIXELS`, and for no pictures at all.
    """
    if not pictures:
        raise PictureError("There is no picture to decode.")
    with _opened(pictures[0]) as first:
        batch = PictureBatch(len(pictures), first.height, first.width)

    def put(index: int) -> None:
        batch.put(index, pictures[index])

    side_by_side(put, range(len(pictures)), limit=WORKERS)
    return batch.tensor


class PictureBatch:
    """One `tensor` `[N,H,W,C]`, float32, 0..1, that pictures are decoded into as they arrive, in any order and thread.

    C becomes 4 with the first picture that has transparency. Places that nothing was put into are undefined.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self.tensor = torch.empty(count, height, width, 3)
        self._filled: list[int] = []
        self._lock = threading.Lock()

    def put(self, index: int, picture: bytes) -> Image.Image:
        """Decode a file into its place, scaled to the batch's size, and return it in about `THUMBNAIL_SIDE_PX`.

        Raises PictureError.
        """
        height, width = self.tensor.shape[1:3]
        with _decoding:
            image = _decode(picture)
            if (image.height, image.width) != (height, width):
                pixels = torch.from_numpy(_as_floats(np.asarray(image)))
                image = Image.fromarray(_as_bytes(resize(pixels[None], height, width)[0].numpy()))
            with self._lock:
                self._fill(index, image)
            step = max(1, max(height, width) // THUMBNAIL_SIDE_PX)
            return image.resize((max(1, width // step), max(1, height // step)), Image.Resampling.NEAREST)

    def _fill(self, index: int, image: Image.Image) -> None:
        channels = len(image.getbands())
        if channels > self.tensor.shape[3]:
            self._add_alpha()
        place = self.tensor[index].numpy()
        for top in range(0, image.height, BAND_ROWS):
            band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
            _as_floats(np.asarray(band), out=place[top : top + BAND_ROWS, :, :channels])
        place[..., channels:] = 1
        self._filled.append(index)

    def _add_alpha(self) -> None:
        tensor = torch.empty(*self.tensor.shape[:3], 4)
        for index in self._filled:
            tensor[index] = with_alpha(self.tensor[index])
        self.tensor = tensor


def _png(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> bytes:
    """The PNG file of `[H,W,3]` and `[H,W]`."""
    pixels = np.empty((*alpha.shape, 4), np.uint8)

    def fill(top: int) -> None:
        band = slice(top, top + BAND_ROWS)
        colours = _as_bytes(colour[band])
        for channel in range(3):  # each apart: numpy is slow at copying three bytes at a time
            pixels[band, :, channel] = colours[..., channel]
        pixels[band, :, 3] = _as_bytes(alpha[band])

    side_by_side(fill, range(0, len(pixels), BAND_ROWS), limit=WORKERS)
    return write_png(pixels)


@contextmanager
def _opened(picture: bytes) -> Iterator[Image.Image]:
    """A file whose header was read and found acceptable; what goes wrong in the block, too, becomes PictureError."""
    if picture.startswith(b"\xff\xd8") and picture.count(b"\xff\xda") > MAX_JPEG_SCANS:  # marker "start of scan"
        raise PictureError("A JPEG picture came in so many passes that it would take hours to open.")
    try:
        with Image.open(BytesIO(picture), formats=FORMATS) as file:
            if file.width * file.height > MAX_DECODED_PIXELS:
                raise PictureError(f"A picture of {file.width}x{file.height} pixels came, which is too large to open.")
            yield file
    except PictureError:
        raise
    except UNREADABLE as err:
        raise PictureError(
            f"What came is no PNG, JPEG or WebP picture, or a damaged one ({len(picture)} bytes)."
        ) from err


def _decode(picture: bytes) -> Image.Image:
    """A file as RGBA where something is transparent, else as RGB."""
    with _opened(picture) as file:
        if file.mode.startswith("I"):
            return Image.fromarray(_from_16_bits(np.asarray(file))).convert("RGB")
        mode = "RGBA" if file.has_transparency_data else "RGB"
        image = file.convert(mode) if file.mode != mode else file
        image.load()
    is_opaque = mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if is_opaque else image


def _from_16_bits(values: NDArray[np.uint16]) -> Pixels:
    # Pillow would cut off what is above 255, not scale it.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


# In numpy, since these run in several threads, and torch would start as many threads again in each.


def _as_bytes(values: NDArray[np.float32]) -> Pixels:
    """0..1 as 0..255, rounded."""
    scaled = values * np.float32(255)
    scaled += np.float32(0.5)
    return scaled.astype(np.uint8)  # which truncates


def _as_floats(pixels: Pixels, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """0..255 as 0..1, by division: a multiplication by 1/255 is off by one bit for 126 of the 256 values."""
    return np.true_divide(pixels, 255, out=out, dtype=np.float32)
