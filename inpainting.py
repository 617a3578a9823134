"""What DALL·E 2 promised about an edit, kept on models that draw the whole picture anew.

The picture that comes back has the original's shape, its long side as asked for; what was not masked is the original's,
and a soft mask blends by its value. A picture that is not square is padded by repeating its edge and cropped back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .image_codec import (
    encode_mask_png,
    encode_rgba_png,
    resize,
    resize_mask,
    single_image,
    single_mask,
    with_alpha,
    within,
)

MIN_SIDE_PX = 16  # of an image: what is smaller holds nothing that a model could go by

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
        image, mask = self._squared
        while True:
            pair = encode_rgba_png(image[..., :3], None if opaque else mask), encode_mask_png(mask)
            excess = max(map(len, pair)) / max_bytes
            if excess < 1:
                return pair
            size = within(int(mask.numel() / excess * 0.9), *mask.shape)
            image, mask = resize(image[None], *size)[0], resize_mask(mask, *size)

    def restore(self, drawn: Tensor) -> Tensor:
        """What was drawn, `[N,side,side,C]`, cropped to the original's shape, the original put back where not masked.

        Returns `[N,h,w,C]`. Where the mask is 0, the original's values are returned untouched (scaled, where the long
        side was not `side` already).
        """
        height, width = self._answer_size
        top, left = (self.side - height) // 2, (self.side - width) // 2
        new = drawn[:, top : top + height, left : left + width]
        old, mask = resize(self.image[None], height, width), resize_mask(self.mask, height, width)
        if new.shape[-1] != old.shape[-1]:
            new, old = with_alpha(new), with_alpha(old)
        return torch.lerp(old, new, mask[None, ..., None])

    @property
    def _answer_size(self) -> tuple[int, int]:
        height, width = self.mask.shape
        scale = self.side / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    @cached_property
    def _squared(self) -> tuple[Tensor, Tensor]:
        """Image and mask, padded to a square by repeating their edges."""
        height, width = self.mask.shape
        side = max(height, width)
        rows = _centred(height, side)
        columns = _centred(width, side)
        return self.image[rows][:, columns], self.mask[rows][:, columns]


def _centred(length: int, side: int) -> Tensor:
    """For each of `side` places the index of 0..length-1 that is shown there, the ends repeated."""
    return (torch.arange(side) - (side - length) // 2).clamp(0, length - 1)


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
    if batch.ndim != rank or not len(batch):
        raise ValueError(f"The {name} has the shape {list(tensor.shape)}, where {rank} dimensions were expected.")
    return batch


def _edit(image: Tensor, mask: Tensor, side: int) -> Edit:
    pixels = single_image(image)
    height, width = pixels.shape[:2]
    if not single_mask(mask).any():
        raise ValueError(NOTHING_PAINTED)
    values = single_mask(mask, (height, width))
    if min(height, width, min(height, width) * side / max(height, width)) < MIN_SIDE_PX:
        raise ValueError(
            f"The image is {width}x{height} pixels, which is too small or too narrow to edit: at {side} pixels its "
            f"shorter side must have at least {MIN_SIDE_PX}. Scale it up or crop it before this node."
        )
    return Edit(pixels, values, side)
