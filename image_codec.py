"""Between ComfyUI's tensors and the pictures on the wire.

An IMAGE is `[B,H,W,C]` and a MASK `[B,H,W]`, both floating point, 0..1, a mask's 1 meaning "replace"; on the wire a
picture is RGBA with 8 bits a channel, where alpha 0 means the same. Values are clamped, scaled by 255 and rounded to
the nearest; nothing is dropped in silence: what does not fit raises ValueError with the shape that came.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

MAX_PIXELS = 1536 * 1024  # of a picture that goes out; more would only cost time, no model draws from it
MAX_DECODED_PIXELS = 40_000_000  # of a picture that comes in: 4.8 times the largest that OpenAI draws
THUMBNAIL_SIDE_PX = 512
FORMATS = ("PNG", "JPEG", "WEBP")

Pixels: TypeAlias = NDArray[np.uint8]  # [H,W,C]


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
        return _png(with_alpha(resize(pixels[None], *size)[0]))
    alpha = 1 - resize_mask(single_mask(mask, pixels.shape[:2]), *size)
    return _png(torch.cat((resize(pixels[None, ..., :3], *size)[0], alpha[..., None]), dim=-1))


def encode_mask_png(mask: Tensor) -> bytes:
    """A mask as the one RGBA PNG file that every server understands: where to edit, white with alpha 0, else black
    with alpha 255. Any painted pixel counts as "edit".

    `mask` is `[1,H,W]` or `[H,W]`; it is scaled down as `encode_rgba_png` scales the image. Raises ValueError likewise.
    """
    values = single_mask(mask)
    edit = (resize_mask(values, *within(MAX_PIXELS, *values.shape)) > 0).float()
    return _png(torch.stack((edit, edit, edit, 1 - edit), dim=-1))


def decode_images(pictures: Sequence[bytes]) -> Tensor:
    """PNG, JPEG or WebP files as one tensor `[N,H,W,C]`, float32, 0..1, all of them in the size of the first.

    C is 4 if any picture has transparency, else 3. Raises PictureError for bytes that are no such picture, for one of
    more than `MAX_DECODED_PIXELS`, and for no pictures at all.
    """
    if not pictures:
        raise PictureError("There is no picture to decode.")
    first = _decode(pictures[0])
    batch = PictureBatch(len(pictures), *first.shape[:2])
    batch.fill(0, first)
    for index in range(1, len(pictures)):
        batch.put(index, pictures[index])
    return batch.tensor


class PictureBatch:
    """One `tensor` `[N,H,W,C]`, float32, 0..1, that pictures are decoded into as they arrive, in any order and thread.

    C becomes 4 with the first picture that has transparency. Places that nothing was put into are undefined.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self.tensor = torch.empty(count, height, width, 3)
        self._lock = threading.Lock()

    def put(self, index: int, picture: bytes) -> None:
        """Decode a file into its place, scaled to the batch's size. Raises PictureError."""
        self.fill(index, _decode(picture))

    def fill(self, index: int, pixels: Pixels) -> None:
        """Write pixels `[H,W,3|4]`, uint8, into their place."""
        size = tuple(self.tensor.shape[1:3])
        scaled = None if pixels.shape[:2] == size else resize(torch.from_numpy(_as_floats(pixels))[None], *size)[0]
        with self._lock:
            if pixels.shape[2] > self.tensor.shape[3]:
                self.tensor = with_alpha(self.tensor)
            place = self.tensor[index]
            if scaled is None:
                _as_floats(pixels, out=place.numpy()[..., : pixels.shape[2]])
            else:
                place[..., : scaled.shape[2]] = scaled
            place[..., pixels.shape[2] :] = 1

    def thumbnail(self, index: int) -> Image.Image:
        """A picture of the batch in about `THUMBNAIL_SIDE_PX`, to be looked at."""
        pixels = self.tensor[index]
        step = max(1, max(pixels.shape[:2]) // THUMBNAIL_SIDE_PX)
        return Image.fromarray((pixels[::step, ::step] * 255).round().to(torch.uint8).numpy())


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """`[B,H,W,C]` scaled to `[B,height,width,C]` by an antialiasing bicubic filter, within 0..1; alpha weighs colour.

    A batch that has the size already is returned as it is.
    """
    if images.shape[1:3] == (height, width):
        return images
    if images.shape[3] == 4:
        alpha = resize(images[..., 3:], height, width)
        colour = _interpolate(images[..., :3] * images[..., 3:], height, width)
        return torch.cat(((colour / alpha.clamp(min=1 / 255)).clamp(0, 1), alpha), dim=-1)
    return _interpolate(images, height, width).clamp(0, 1)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """`[H,W]` scaled to `[height,width]` by an antialiasing filter that paints nothing outside of the painted part."""
    if mask.shape == (height, width):
        return mask
    scaled = torch.nn.functional.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True)
    return scaled[0, 0].clamp(0, 1)


def with_alpha(image: Tensor) -> Tensor:
    """`[...,3|4]` as `[...,4]`: opaque where there was no alpha."""
    return image if image.shape[-1] == 4 else torch.cat((image, torch.ones_like(image[..., :1])), dim=-1)


def within(pixels: int, height: int, width: int) -> tuple[int, int]:
    """The height and width of at most that many pixels, shape kept, that a picture is scaled down to."""
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    return max(1, int(height * scale)), max(1, int(width * scale))


def single_image(image: Tensor) -> Tensor:
    """The image as `[H,W,3|4]` float32 on the CPU, 0..1. Raises ValueError, naming the shape, for anything else."""
    pixels = _single(image, rank=3, name="image", expected="[1,H,W,3] or [1,H,W,4]")
    if pixels.shape[2] not in (3, 4):
        raise ValueError(f"An image needs 3 or 4 channels; this one has the shape {list(image.shape)}.")
    return pixels


def single_mask(mask: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """The mask as `[H,W]` float32 on the CPU, 0..1, of the given (height, width). Raises ValueError otherwise."""
    values = _single(mask, rank=2, name="mask", expected="[1,H,W]")
    if size is not None and tuple(values.shape) != tuple(size):
        raise ValueError(
            f"Mask and Image must be the same size: the mask is {values.shape[1]}x{values.shape[0]}, the image "
            f"{size[1]}x{size[0]} (width x height). Resize one of them before this node."
        )
    return values


def _single(tensor: Tensor, *, rank: int, name: str, expected: str) -> Tensor:
    shape = list(tensor.shape)
    single = tensor[0] if len(shape) == rank + 1 and shape[0] == 1 else tensor
    if single.ndim != rank or 0 in shape:
        raise ValueError(f"One {name} must be {expected}; this one has the shape {shape}.")
    if not tensor.is_floating_point():
        raise ValueError(
            f"The {name} must hold floating-point numbers of 0..1; this one of shape {shape} is {tensor.dtype}."
        )
    values = single.detach().to("cpu", torch.float32)
    if values.isnan().any():
        raise ValueError(f"The {name} of shape {shape} holds NaN (not a number). Look at the node that made it.")
    return values.clamp(0, 1)


def _interpolate(images: Tensor, height: int, width: int) -> Tensor:
    channels_first = images.movedim(-1, 1)
    scaled = torch.nn.functional.interpolate(channels_first, (height, width), mode="bicubic", antialias=True)
    return scaled.movedim(1, -1)


def _png(pixels: Tensor) -> bytes:
    file = BytesIO()
    Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _decode(picture: bytes) -> Pixels:
    """The pixels `[H,W,3|4]` of a file, uint8; 4 channels only where something is transparent."""
    try:
        with Image.open(BytesIO(picture), formats=FORMATS) as file:
            if file.width * file.height > MAX_DECODED_PIXELS:
                raise PictureError(f"A picture of {file.width}x{file.height} pixels came, which is too large to open.")
            array = np.asarray(file.convert("RGBA" if file.has_transparency_data else "RGB"))
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise PictureError(f"What came is no PNG, JPEG or WebP picture: {err}") from err
    return array[..., :3] if array.shape[2] == 4 and (array[..., 3] == 255).all() else array


def _as_floats(pixels: Pixels, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    # Division, because a multiplication by 1/255 is off by one bit for 126 of the 256 values.
    return np.true_divide(pixels, 255, out=out, dtype=np.float32)
