"""What DALL·E 2 promised about an edit, kept on models that paint the whole image again.

The result has the original's shape, its longer side as asked for. What was not masked is the original's, and a soft
mask blends by its value. An image that is not square is padded by repeating its edge, and cropped back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import Charge
from ..image_codec import (
    check_same_size,
    checked_image,
    checked_mask,
    decode_images,
    encode_mask_png,
    encode_png,
    encode_rgba_png,
    fit,
    to_image,
)
from ..threads import start_thread

# Of an image. No server states its minimum; 16 pixels are the unit in which today's models measure an image.
MIN_SIDE_PX = 16
MAX_SENT_SIDE_PX = 1024  # no model works on more of an edit
MAX_PAINTED_SIDE_PX = 4096
MAX_FILE_BYTES = 4_000_000  # DALL·E 2's limit for an image, and today's for a mask
NOTICEABLE = 0.5 / 255  # a mask's value below it is 0 in every image file

NEEDS_BOTH = "Dall-E 2 image editing requires an image AND a mask"
NOTHING_PAINTED = (
    "The mask is empty, so there is nothing to replace. Right-click the image on its Load Image node, choose "
    '"Open in MaskEditor", paint over what should change, save, and run again.'
)


@dataclass(frozen=True)
class EditFiles:
    """The two PNG files of an edit, square and of the same size."""

    image: bytes
    mask: bytes


@dataclass(frozen=True)
class _Prepared:
    """What is made of an edit's image and mask, once.

    `square` (RGB) and `square_mask` `[S,S]` are sent. `old` `[1,h,w,C]` and `mask` `[h,w]` have the size of the result.
    """

    square: Image.Image
    square_mask: Tensor
    old: Tensor
    mask: Tensor


@dataclass
class Edit:
    """One image to edit: `image` `[H,W,3|4]` and `mask` `[H,W]`, both checked, for a result of `side_px` pixels."""

    image: Tensor
    mask: Tensor
    side_px: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return self._fitted(self.side_px)

    @cached_property
    def digest(self) -> str:
        """Names what is sent: two edits with the same digest ask the same."""
        digest = hashlib.sha256(self._prepared.square.tobytes())
        digest.update(self._prepared.square_mask.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def opaque_files(self) -> EditFiles:
        """The image without alpha, and the mask."""
        mask_file = start_thread(lambda: encode_mask_png(self._prepared.square_mask), "openai-dalle-png")
        return EditFiles(encode_png(self._prepared.square), mask_file.result())

    @cached_property
    def transparent_files(self) -> EditFiles:
        """The image with alpha 0 where to edit, as DALL·E 2 itself wants it, and the mask.

        Both are scaled down until the image is below DALL·E 2's limit; only noise takes so many bytes.
        """
        side_px = self._prepared.square.width
        while True:
            size = side_px, side_px
            image = self._prepared.square.resize(size, Image.Resampling.BICUBIC)
            mask = _scaled_mask(self._prepared.square_mask, size)
            file = encode_rgba_png(image, mask)
            if len(file) < MAX_FILE_BYTES:
                return EditFiles(file, encode_mask_png(mask))
            side_px = side_px * 9 // 10

    def restore(self, painted: Image.Image) -> Tensor:
        """What a model painted, cropped to the original's shape, with the original where nothing was masked.

        Returns `[1,h,w,C]`. Where the mask is 0, the original's values are untouched (those of the scaled original,
        if its longer side was not `side_px` already).
        """
        longer_side = min(max(painted.size), MAX_PAINTED_SIDE_PX)  # a long, narrow image would become a huge square
        square = fit(painted, (longer_side, longer_side))
        new = square.resize(self.size, Image.Resampling.BICUBIC, box=self._inner_box(longer_side))
        return _blended(self._prepared.old, decode_images([new]), self._prepared.mask[None, ..., None])

    @cached_property
    def _prepared(self) -> _Prepared:
        pixels = to_image(self.image)
        colour = pixels if pixels.mode == "RGB" else pixels.convert("RGB")
        sent = colour.resize(self._sent_size, Image.Resampling.BICUBIC)
        sent_mask = _scaled_mask(self.mask, self._sent_size)
        width, height = self.size
        if self.mask.shape == (height, width):
            old, mask = self.image[None], self.mask
        elif self.size == self._sent_size and colour is pixels:
            old, mask = decode_images([sent]), sent_mask  # a large image is scaled once for both uses
        else:
            old = decode_images([pixels.resize(self.size, Image.Resampling.BICUBIC)])
            mask = _scaled_mask(self.mask, self.size)
        return _Prepared(*_padded_to_square(sent, sent_mask), old, mask)

    def _inner_box(self, square_px: int) -> tuple[float, float, float, float]:
        """Where the image lies inside a square of that side: left, top, right, bottom."""
        width, height = self._sent_size
        scale = square_px / max(width, height)
        left, top = _padding((width, height))
        return left * scale, top * scale, (left + width) * scale, (top + height) * scale

    @property
    def _sent_size(self) -> tuple[int, int]:
        return self._fitted(min(max(self.mask.shape), MAX_SENT_SIDE_PX))

    def _fitted(self, longer_side_px: int) -> tuple[int, int]:
        """Width and height of the image when its longer side has that length."""
        height, width = self.mask.shape
        scale = longer_side_px / max(height, width)
        return max(1, round(width * scale)), max(1, round(height * scale))


def edits_of(image: Tensor | None, mask: Tensor | None, side_px: int) -> list[Edit]:
    """The edits that an IMAGE `[B,H,W,3|4]` and a MASK `[B|1,H,W]` ask for, none where both are None.

    Raises ValueError, before anything is paid for: for one without the other, a mask in which nothing is painted, sizes
    or counts that do not fit, an image that is too small, and all that `image_codec` refuses.
    """
    if image is None and mask is None:
        return []
    if image is None or mask is None:
        raise ValueError(NEEDS_BOTH)
    try:
        return _checked_edits(image, mask, side_px)
    except ValueError as err:
        raise ValueError(f"{err} {Charge.NO.value}") from err


def _checked_edits(image: Tensor, mask: Tensor, side_px: int) -> list[Edit]:
    images, masks = _batch(image, 4, "image"), _batch(mask, 3, "mask")
    if len(masks) not in (1, len(images)):
        raise ValueError(
            f"There are {len(images)} images and {len(masks)} masks: give one mask, or one for each image."
        )
    edits: list[Edit] = []
    for index, each in enumerate(images):
        edits.append(_checked_edit(each, masks[index % len(masks)], side_px))
    return edits


def _batch(tensor: Tensor, rank: int, name: str) -> Tensor:
    expected = "[B,H,W,C]" if rank == 4 else "[B,H,W]"
    if not isinstance(tensor, Tensor):  # over a link anything can come
        raise ValueError(f"The {name} has the shape of a {type(tensor).__name__}; it must be a tensor {expected}.")
    batch = tensor[None] if tensor.ndim == rank - 1 else tensor
    if batch.ndim != rank or 0 in batch.shape:
        raise ValueError(f"The {name} has the shape {list(tensor.shape)}; it must be {expected} and not empty.")
    return batch


def _checked_edit(image: Tensor, mask: Tensor, side_px: int) -> Edit:
    pixels, values = checked_image(image), checked_mask(mask)
    # First: Load Image gives a mask of 64 x 64 zeros for a file without one.
    if not (values >= NOTICEABLE).any():
        raise ValueError(NOTHING_PAINTED)
    height, width = pixels.shape[:2]
    check_same_size(values, (height, width))
    if min(height, width, min(height, width) * side_px / max(height, width)) < MIN_SIDE_PX:
        raise ValueError(
            f"The image is {width}x{height} pixels, which is too small or too narrow to edit: its shorter side must "
            f"have at least {MIN_SIDE_PX} pixels, also when the longer one is scaled to {side_px}. Scale it up or crop "
            "it before this node."
        )
    return Edit(pixels, values, side_px)


def _scaled_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """`[H,W]` scaled to a width and height: each pixel the mean of those that it covers.

    So it is 0 exactly where it covers nothing painted, which a smoother filter would not keep to.
    """
    width, height = size
    if mask.shape == (height, width):
        return mask
    return interpolate(mask[None, None], (height, width), mode="area")[0, 0]


def _padded_to_square(image: Image.Image, mask: Tensor) -> tuple[Image.Image, Tensor]:
    """An image (RGB) and its mask `[H,W]`, padded by repeating their edges."""
    width, height = image.size
    if width == height:
        return image, mask
    left, top = _padding(image.size)
    rows = top, max(image.size) - height - top
    columns = left, max(image.size) - width - left
    pixels = np.pad(np.asarray(image), (rows, columns, (0, 0)), mode="edge")
    return Image.fromarray(pixels), torch.from_numpy(np.pad(mask.numpy(), (rows, columns), mode="edge"))


def _padding(size: tuple[int, int]) -> tuple[int, int]:
    """How many pixels are added at the left and at the top to make a square of this width and height."""
    return (max(size) - size[0]) // 2, (max(size) - size[1]) // 2


def _blended(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """`old` where the mask is 0, `new` where it is 1, a mixture by its value between; alpha weighs colour."""
    if old.shape[-1] == 3 and new.shape[-1] == 3:
        return torch.lerp(old, new, mask)
    old, new = with_alpha(old), with_alpha(new)
    alpha = torch.lerp(old[..., 3:], new[..., 3:], mask)
    share = (mask * new[..., 3:] / alpha.clamp(min=1 / 255**2)).clamp(max=1)
    return torch.cat((torch.lerp(old[..., :3], new[..., :3], share), alpha), dim=-1)


def with_alpha(images: Tensor) -> Tensor:
    """`[...,3|4]` as `[...,4]`: opaque where there was no alpha."""
    return images if images.shape[-1] == 4 else torch.cat((images, torch.ones_like(images[..., :1])), dim=-1)
