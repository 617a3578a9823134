"""Scaling: within the limit, without stains or aliases, and a mask exactly where it is painted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalle2.tensors import resize, resize_mask, within


@settings(deadline=None, derandomize=True)
@given(height=st.integers(1, 10**7), width=st.integers(1, 10**7), pixels=st.integers(1, 10**8))
def test_what_is_scaled_down_never_has_more_pixels_than_asked_for(height: int, width: int, pixels: int) -> None:
    scaled = within(pixels, height, width)
    assert 1 <= scaled[0] <= height and 1 <= scaled[1] <= width
    assert scaled[0] * scaled[1] <= pixels
    if height * width <= pixels:
        assert scaled == (height, width)


def test_scaling_down_does_not_alias() -> None:
    checked = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(128, 128)[None, ..., None].repeat(1, 1, 1, 3)
    scaled = resize(checked, 64, 64)
    assert (scaled[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.02


def test_scaling_keeps_channels_apart_and_a_colour_as_it_is() -> None:
    image = torch.tensor([26.0, 128.0, 230.0]).div(255).expand(2, 31, 17, 3)
    scaled = resize(image, 40, 9)
    assert torch.equal(scaled, image[:, :1, :1].expand(2, 40, 9, 3))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
def test_what_is_scaled_is_saved_as_it_was(value: int) -> None:
    image = torch.full((1, 300, 300, 4), value / 255)
    image[..., 3] = 1
    scaled = resize(image, 256, 256)
    assert (scaled[..., 3] == 1).all()
    assert ((scaled[..., :3].numpy() * 255).astype(np.uint8) == value).all()  # as SaveImage does it, without rounding


def test_scaling_agrees_with_an_independent_filter() -> None:
    values = torch.rand(1, 60, 44, 3, generator=torch.Generator().manual_seed(1))
    for size in ((30, 22), (95, 71)):
        planes = [
            Image.fromarray(values[0, ..., c].numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for c in range(3)
        ]
        expected = np.clip(np.dstack([np.asarray(plane) for plane in planes]), 0, 1)
        assert np.abs(resize(values, *size)[0].numpy() - expected).max() < 0.01


def test_colour_under_transparency_does_not_bleed_when_scaled() -> None:
    image = torch.zeros(1, 64, 64, 4)
    image[..., :3] = torch.tensor([1.0, 0.0, 0.0])
    image[:, :, 32:] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    image[:, :, :32, 3] = 1
    scaled = resize(image, 20, 20)
    visible = scaled[..., 3] > 0.01
    assert (scaled[..., 0][visible] > 0.99).all() and (scaled[..., 1][visible] < 0.01).all()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    new_height=st.integers(1, 60),
    new_width=st.integers(1, 60),
    seed=st.integers(0, 2**31),
)
def test_a_scaled_mask_is_painted_exactly_where_it_covers_painted_pixels(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    mask = torch.from_numpy((np.random.default_rng(seed).random((height, width)) < 0.2).astype(np.float32))
    scaled = resize_mask(mask, new_height, new_width)
    assert scaled.min() >= 0 and scaled.max() <= 1
    for y in range(new_height):
        rows = slice(y * height // new_height, -(-(y + 1) * height // new_height))
        for x in range(new_width):
            columns = slice(x * width // new_width, -(-(x + 1) * width // new_width))
            covered = mask[rows, columns]
            assert (scaled[y, x] > 0) == bool(covered.any())
            assert (scaled[y, x] == 1) == bool(covered.all())
