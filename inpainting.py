"""What DALL·E 2 promised about an edit, kept on models that draw the whole picture anew.

The picture that comes back has the original's shape, its long side as asked for; what was not masked is the original's,
and a soft mask blends by its value. A picture that is not square is padded by repeating its edge and cropped back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from .image_codec import MAX_PIXELS, encode_mask_png, encode_rgba_png
from .tensors import resize, resize_mask, single_image, single_mask, with_alpha, within

# Of an image. No server tells its minimum; 16 pixels are the unit in which today's models measure a picture.
MIN_SIDE_PX = 16
MAX_SENT_SIDE_PX = isqrt(MAX_PIXELS)

NEEDS_BOTH = "Dall-E 2 image editing requires an image AND a mask"
NOTHING_PAINTED = (
    "The mask is empty, so there is nothing to replace. Right-click the image on its Load Image node, choose "
    '"Open in MaskEditor", paint over what should change, save, and run again. Nothing was charged.'
)


@dataclass(frozen=True)
class Edit:
    """One picture to edit: `image` `[H,W,3|4]`, `mask` `[H,W]`, both 0..1 float32, for an answer of `side` pixels."""

    image: Tensor
    mask: Tensor
    side: int

    def files(self, *, opaque: bool, max_bytes: int) -> tuple[bytes, bytes]:
        """The square image and the mask of the same size as PNG files, each smaller than `max_bytes`.

        The image's alpha is 1 - mask, or 1 when `opaque`. Where compression is not enough, both are scaled down.
        """
        image, mask = self._squared()
        pixels = mask.numel()
        while True:
            size = within(pixels, *mask.shape)
            scaled = resize_mask(mask, *size)
            pair = encode_rgba_png(resize(image, *size), None if opaque else scaled), encode_mask_png(scaled)
            excess = max(map(len, pair)) / max_bytes
            if excess < 1:
                return pair
            pixels = int(pixels / excess * 0.9)

    def restore(self, drawn: Tensor) -> Tensor:
        """What was drawn, `[N,side,side,C]`, cropped to the original's shape, the original put back where not masked.

        Returns `[N,h,w,C]`. Where the mask is 0, the original's values are returned untouched (scaled, where the long
        side was not `side` already).
        """
        height, width = _fitted(self.mask.shape, self.side)
        square = max(self._sent_size)
        # Where the middle of what was sent is now, less half of what is kept of it.
        top, left = (
            round((_padding(sent, square) + sent / 2) * self.side / square - kept / 2)
            for sent, kept in zip(self._sent_size, (height, width), strict=True)
        )
        new = drawn[:, top : top + height, left : left + width]
        old, mask = resize(self.image[None], height, width), resize_mask(self.mask, height, width)
        if new.shape[-1] != old.shape[-1]:
            new, old = with_alpha(new), with_alpha(old)
        return _blended(old, new, mask[None, ..., None])

    @property
    def _sent_size(self) -> tuple[int, int]:
        """Height and width of the image inside of the square files."""
        return _fitted(self.mask.shape, min(max(self.mask.shape), MAX_SENT_SIDE_PX))

    def _squared(self) -> tuple[Tensor, Tensor]:
        """Image `[1,S,S,3]` and mask `[S,S]`, padded to a square by repeating their edges."""
        height, width = self._sent_size
        rows, columns = (_padded_indices(length, max(height, width)) for length in (height, width))
        image = resize(self.image[None, ..., :3], height, width)
        return image[:, rows][:, :, columns], resize_mask(self.mask, height, width)[rows][:, columns]


def _blended(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """`old` where the mask is 0, `new` where it is 1, a mixture by its value between; alpha weighs colour."""
    if old.shape[-1] == 3:
        return torch.lerp(old, new, mask)
    alpha = torch.lerp(old[..., 3:], new[..., 3:], mask)
    share = (mask * new[..., 3:] / alpha.clamp(min=1 / 255**2)).clamp(max=1)
    return torch.cat((torch.lerp(old[..., :3], new[..., :3], share), alpha), dim=-1)


def _fitted(size: Sequence[int], long_side: int) -> tuple[int, int]:
    """Height and width of something that has this size when its long side is made `long_side`."""
    height, width = (max(1, round(length * long_side / max(size))) for length in size)
    return height, width


def _padding(length: int, side: int) -> int:
    """How much is added before a row or column of `length` to make it `side`; the rest is added behind it."""
    return (side - length) // 2


def _padded_indices(length: int, side: int) -> Tensor:
    """For each of `side` places the index of 0..length-1 that is shown there, the ends repeated."""
    return (torch.arange(side) - _padding(length, side)).clamp(0, length - 1)


def edits_of(image: Tensor | None, mask: Tensor | None, side: int) -> list[Edit]:
    """The edits that an IMAGE `[B,H,W,3|4]` and a MASK `[B|1,H,W]` ask for, none where both are None.

    Raises ValueError, before anything is paid for: for one without the other, a mask in which nothing is painted, sizes
    or counts that do not fit, an image that is too small, and all that `image_codec` refuses.
    """
    if image is None and mask is None:
        return []
    if image is None or mask is None:
        raise ValueError(NEEDS_BOTH)
    images, masks = _batch(image, 4, "image"), _batch(mask, 3, "mask")
    if len(masks) not in (1, len(images)):
        raise ValueError(
            f"There are {len(images)} images and {len(masks)} masks: give one mask, or one for each image."
        )
    return [_edit(images[i], masks[i % len(masks)], side) for i in range(len(images))]


def _batch(tensor: Tensor, rank: int, name: str) -> Tensor:
    batch = tensor[None] if tensor.ndim == rank - 1 else tensor
    if batch.ndim != rank or 0 in batch.shape:
        raise ValueError(
            f"The {name} has the shape {list(tensor.shape)}, where {rank} dimensions were expected, none of them 0."
        )
    return batch


def _edit(image: Tensor, mask: Tensor, side: int) -> Edit:
    pixels = single_image(image)
    height, width = pixels.shape[:2]
    if not single_mask(mask).any():
        raise ValueError(NOTHING_PAINTED)
    values = single_mask(mask, (height, width))
    if min(height, width, min(height, width) * side / max(height, width)) < MIN_SIDE_PX:
        raise ValueError(
            f"The image is {width}x{height} pixels, which is too small or too narrow to edit: its shorter side must "
            f"have at least {MIN_SIDE_PX} pixels, also when the longer one is scaled to {side}. Scale it up or crop it "
            "before this node."
        )
    return Edit(pixels, values, side)
