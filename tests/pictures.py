"""Images as ComfyUI's own nodes read and write them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def noise(*shape: int, seed: int = 1) -> NDArray[np.uint8]:
    """Pixels of all values."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def loaded(pixels: NDArray[np.uint8]) -> Tensor:
    """What LoadImage makes of pixels."""
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


def saved(image: Tensor) -> NDArray[np.uint8]:
    """What SaveImage writes: it truncates."""
    return np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8)
