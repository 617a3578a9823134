"""Between ComfyUI's tensors and image files.

An IMAGE is `[B,H,W,C]` and a MASK `[B,H,W]`, both floating point, 0..1, a mask's 1 meaning "replace". In a file an
image has 8 bits a channel, and alpha 0 means the same as a mask's 1. Values are clamped, scaled by 255 and rounded;
nothing is dropped silently: what does not fit raises ValueError with the shape that came.

Between the two, images are Pillow images with 8 bits a channel, mode RGB, or RGBA where something is transparent.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from .threads import map_threads

MAX_PIXELS = 4096 * 4096  # of an image that comes in: twice the largest that OpenAI makes
MAX_JPEG_SCANS = 100  # progressive files have about ten; each is a pass over the whole image, and takes its time
# Pillow handles each of these in Python.
MAX_PNG_CHUNKS = 10_000  # some programs write one for each 8 kB
MAX_JPEG_SEGMENTS = 250  # before the pixels; those with EXIF data are joined one by one
MAX_OPENED_AT_ONCE = 4
BAND_ROWS = 128  # are converted at a time: a whole image would be in memory twice meanwhile
FORMATS = ("PNG", "JPEG", "WEBP")
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # those on which the pixels depend
BARE_JPEG_MARKERS = {0xFF00, 0xFFC8, *range(0xFFD0, 0xFFDA), *range(0xFFF0, 0xFFFE)}  # no length follows these

Pixels: TypeAlias = NDArray[np.uint8]  # [H,W,C]

# To be held while a downloaded image is opened and scaled: it bounds the memory that many large ones take together.
opening_slots = threading.BoundedSemaphore(MAX_OPENED_AT_ONCE)


class ImageError(ValueError):
    """Bytes that are not an image this codec reads."""


def encode_rgba_png(image: Tensor | Image.Image, mask: Tensor | None = None) -> bytes:
    """An image as an RGBA PNG file whose alpha is 1 - mask.

    `image` is `[1,H,W,3|4]` or `[H,W,3|4]` (or a Pillow image, RGB or RGBA), `mask` `[1,H,W]` or `[H,W]` of the same
    height and width; any floating dtype, any device. Without a mask, alpha is the image's own, or 1.
    Raises ValueError for other shapes, other dtypes and NaN.
    """
    picture = image if isinstance(image, Image.Image) else to_image(checked_image(image))
    rgba = picture.convert("RGBA")
    if mask is not None:
        values = checked_mask(mask, (picture.height, picture.width))
        rgba.putalpha(ImageChops.invert(to_grey(values)))
    return encode_png(rgba)


def encode_mask_png(mask: Tensor) -> bytes:
    """A mask `[1,H,W]` or `[H,W]` as the one RGBA PNG file that every server understands.

    Where to edit it is white with alpha 0, elsewhere black with alpha 255: servers read either the alpha or the
    colour. Any painted pixel counts as "edit". Raises ValueError as `encode_rgba_png` does.
    """
    edit = Image.fromarray(np.where(checked_mask(mask).numpy() > 0, np.uint8(255), np.uint8(0)))
    return encode_png(Image.merge("RGBA", (edit, edit, edit, ImageChops.invert(edit))))


def decode_images(pictures: Sequence[bytes | Image.Image]) -> Tensor:
    """PNG, JPEG or WebP files, or images that were opened already, as one tensor `[N,H,W,C]`, float32, 0..1.

    All of them get the size of the first: scaled to cover it, and cropped to the middle. C is 4 if any image has
    transparency, else 3. Raises ImageError for bytes that are no such image, and for no images at all.
    """
    if not pictures:
        raise ImageError("There is no image to decode.")
    images = map_threads(_opened_already, pictures, limit=MAX_OPENED_AT_ONCE)
    size = images[0].size
    mode = "RGBA" if any(image.mode == "RGBA" for image in images) else "RGB"
    batch = torch.empty(len(images), size[1], size[0], len(mode))

    def fill(index: int) -> None:
        _fill(batch[index].numpy(), fit(images[index], size).convert(mode))

    map_threads(fill, range(len(images)), limit=MAX_OPENED_AT_ONCE)
    return batch


def _opened_already(picture: bytes | Image.Image) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else open_image(picture)


def open_image(file: bytes) -> Image.Image:
    """A PNG, JPEG or WebP file as an image, turned as its EXIF data says; of an animation, the first picture.

    Raises ImageError for bytes that are no such image, and for one of more than `MAX_PIXELS`.
    """
    with _opened(file) as image:
        _turn(image)
        if image.mode.startswith("I"):  # grey with 16 bits a pixel, of which Pillow would make white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        mode = "RGBA" if image.has_transparency_data else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    is_opaque = mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if is_opaque else image


def encode_png(image: Image.Image) -> bytes:
    """An image as a PNG file.

    Z_RLE takes a third of the default's time. A photograph's file has the same size within 1 %; one of a drawing or of
    shades of grey can be 1.8 times as large.
    """
    file = BytesIO()
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in this size (width, height): scaled to cover it, and cropped to the middle, never squeezed."""
    if image.size == size:
        return image
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def to_image(image: Tensor) -> Image.Image:
    """A checked image `[H,W,3|4]` with 8 bits a channel."""
    height, width, channels = image.shape
    whole = Image.new("RGBA" if channels == 4 else "RGB", (width, height))
    for top in range(0, height, BAND_ROWS):
        band = _as_bytes(image[top : top + BAND_ROWS].numpy())
        whole.paste(Image.fromarray(band), (0, top))
    return whole


def to_grey(mask: Tensor) -> Image.Image:
    """A checked mask `[H,W]` as a grey image, 255 for 1."""
    return Image.fromarray(_as_bytes(mask.numpy()))


def checked_image(image: Tensor) -> Tensor:
    """The image as `[H,W,3|4]` float32 on the CPU, 0..1. Raises ValueError, naming the shape, for anything else."""
    pixels = _checked(image, rank=3, name="image", expected="[1,H,W,3] or [1,H,W,4]")
    if pixels.shape[2] not in (3, 4):
        raise ValueError(f"An image needs 3 or 4 channels; this one has the shape {list(image.shape)}.")
    return pixels


def checked_mask(mask: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The mask as `[H,W]` float32 on the CPU, 0..1, of the given (height, width). Raises ValueError otherwise."""
    values = _checked(mask, rank=2, name="mask", expected="[1,H,W]")
    if size is not None:
        check_same_size(values, size)
    return values


def check_same_size(mask: Tensor, size: tuple[int, int]) -> None:
    """Raise ValueError unless a mask `[H,W]` has the (height, width) of its image."""
    if tuple(mask.shape) != size:
        raise ValueError(
            f"Mask and Image must be the same size: the mask is {mask.shape[1]}x{mask.shape[0]}, the image "
            f"{size[1]}x{size[0]} (width x height). Resize one of them before this node."
        )


def _checked(tensor: Tensor, *, rank: int, name: str, expected: str) -> Tensor:
    shape = list(tensor.shape)
    single = tensor[0] if len(shape) == rank + 1 and shape[0] == 1 else tensor
    if single.ndim != rank or 0 in shape:
        raise ValueError(f"One {name} must be {expected}; this one has the shape {shape}.")
    if not tensor.is_floating_point():
        raise ValueError(
            f"The {name} must hold floating-point numbers of 0..1; this one of shape {shape} is {tensor.dtype}."
        )
    values = single.detach().to("cpu", torch.float32)
    # numpy makes no copy of what can have hundreds of megabytes.
    low, high = values.numpy().min(), values.numpy().max()  # NaN where any value is
    if np.isnan(low):
        raise ValueError(f"The {name} of shape {shape} holds NaN (not a number). Look at the node that made it.")
    return values if low >= 0 and high <= 1 else values.clamp(0, 1)


@contextmanager
def _opened(file: bytes) -> Iterator[Image.Image]:
    """A file whose header was read and found acceptable; what goes wrong in the block, too, becomes ImageError."""
    if file.startswith(b"\xff\xd8"):
        _check_jpeg(file)
    try:
        with Image.open(_pixel_data(file), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(
                    f"The server sent an image of {opened.width}x{opened.height} pixels, which is too large to open."
                )
            yield opened
    except (ImageError, MemoryError):
        raise
    except Exception as err:  # Pillow's parsers raise nearly anything for bytes that are not a valid image
        raise ImageError(
            f"The server sent something that is not a PNG, JPEG or WebP image, or a damaged one ({len(file)} bytes)."
        ) from err


def _check_jpeg(file: bytes) -> None:
    """Refuse a JPEG file that would take minutes to open. Raises ImageError."""
    if file.count(b"\xff\xda") > MAX_JPEG_SCANS:  # the marker "start of scan"
        raise ImageError(
            f"The server sent a JPEG image with more than {MAX_JPEG_SCANS} scans, which are too many to open."
        )
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        position = _next_segment(file, position)
        if position >= len(file):
            return
    raise ImageError(
        f"The server sent a JPEG image with more than {MAX_JPEG_SEGMENTS} segments, which are too many to open."
    )


def _next_segment(file: bytes, position: int) -> int:
    """Where Pillow looks for the next JPEG marker; the end of the file where the pixels begin."""
    marker = int.from_bytes(file[position : position + 2], "big")
    if marker == 0xFFDA:
        return len(file)
    if marker < 0xFF00 or marker == 0xFFFF:
        return position + 1  # Pillow skips padding and what is no marker byte by byte
    if marker in BARE_JPEG_MARKERS:
        return position + 2
    length = int.from_bytes(file[position + 2 : position + 4], "big")  # of itself, too
    return position + 2 + max(length, 2)


def _pixel_data(file: bytes) -> BytesIO:
    """What Pillow is to read: of a PNG no texts and no colour profile, since it would unpack all of them."""
    if not file.startswith(b"\x89PNG"):
        return BytesIO(file)
    view = memoryview(file)
    kept = [view[:8]]
    start = 8
    for _ in range(MAX_PNG_CHUNKS):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        if view[start + 4 : start + 8] in PNG_CHUNKS:
            kept.append(view[start:end])
        start = end
        if start >= len(file):
            return BytesIO(b"".join(kept))
    raise ImageError(f"The server sent a PNG image with more than {MAX_PNG_CHUNKS} chunks, which are too many to open.")


def _turn(image: Image.Image) -> None:
    """Turn an image as its EXIF data say; damaged ones say nothing, for the image may be paid for."""
    image.load()
    with suppress(SyntaxError, ValueError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)


def _as_bytes(values: NDArray[np.float32]) -> Pixels:
    """0..1 as 0..255, rounded."""
    scaled = values * np.float32(255)
    scaled += np.float32(0.5)
    return scaled.astype(np.uint8)  # which truncates


def _fill(target: NDArray[np.float32], image: Image.Image) -> None:
    """Write an image into `[H,W,C]` as 0..1. Divided: a multiplication by 1/255 is off for 126 of the 256 values."""
    for top in range(0, image.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        np.true_divide(band, 255, out=target[top:bottom], dtype=np.float32)
