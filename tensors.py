"""What an IMAGE and a MASK of ComfyUI have to be, and how they are scaled.

An IMAGE is `[B,H,W,C]` and a MASK `[B,H,W]`, both floating point, 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


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
    # No copy is made of what can have hundreds of megabytes.
    low, high = values.numpy().min(), values.numpy().max()  # NaN where any value is
    if np.isnan(low):
        raise ValueError(f"The {name} of shape {shape} holds NaN (not a number). Look at the node that made it.")
    return values if low >= 0 and high <= 1 else values.clamp(0, 1)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """`[B,H,W,C]` scaled to `[B,height,width,C]` by an antialiasing bicubic filter; alpha weighs colour.

    The values are rounded to those of 8 bits, 0/255 to 255/255: a value just below one would be saved as the next lower
    one, and an alpha just below 1 would count as transparent. A batch that has the size already is returned as it is.
    """
    if images.shape[1:3] == (height, width):
        return images
    scaled = torch.empty(images.shape[0], height, width, images.shape[3])
    has_alpha = images.shape[3] == 4
    if has_alpha:
        scaled[..., 3] = _scaled(images[..., 3], height, width).clamp_(0, 1)
    for channel in range(3):  # each apart, which takes less memory, and less time too
        values = images[..., channel] * images[..., 3] if has_alpha else images[..., channel]
        scaled[..., channel] = _scaled(values, height, width)
        if has_alpha:
            scaled[..., channel] /= scaled[..., 3].clamp(min=1 / 255)
    return scaled.clamp_(0, 1).mul_(255).round_().div_(255)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """`[H,W]` scaled to `[height,width]`: each pixel the mean of those that it covers.

    So it is 0 exactly where it covers nothing painted, which a smoother filter would not keep to.
    """
    if mask.shape == (height, width):
        return mask
    return interpolate(mask[None, None], (height, width), mode="area")[0, 0]


def with_alpha(image: Tensor) -> Tensor:
    """`[...,3|4]` as `[...,4]`: opaque where there was no alpha."""
    return image if image.shape[-1] == 4 else torch.cat((image, torch.ones_like(image[..., :1])), dim=-1)


def within(pixels: int, height: int, width: int) -> tuple[int, int]:
    """The height and width of at most that many pixels, shape kept, that a picture is scaled down to."""
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    scaled_height = min(max(1, int(height * scale)), pixels)
    return scaled_height, min(max(1, int(width * scale)), pixels // scaled_height)


def _scaled(values: Tensor, height: int, width: int) -> Tensor:
    return interpolate(values[None], (height, width), mode="bicubic", antialias=True)[0]
