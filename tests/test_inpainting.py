"""DALL·E 2's promises about an edit: what is not masked is the original's, and the result has its shape."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dalle2.errors import Charge
from dalle2.generation.inpainting import MAX_FILE_BYTES, MAX_SENT_SIDE_PX, MIN_SIDE_PX, NEEDS_BOTH, Edit, edits_of
from tests.pictures import as_bytes, loaded, noise, picture, pixels_of

BICUBIC = Image.Resampling.BICUBIC


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def box(height: int, width: int, value: float = 1.0) -> Tensor:
    """A mask that is painted in its middle third."""
    mask = torch.zeros(1, height, width)
    mask[:, height // 3 : 2 * height // 3 + 1, width // 3 : 2 * width // 3 + 1] = value
    return mask


def only(image: Tensor, mask: Tensor, side_px: int) -> Edit:
    (edit,) = edits_of(image, mask, side_px)
    return edit


def values_of(image: Image.Image) -> Tensor:
    return loaded(np.asarray(image))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 256), (256, 77)])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_not_masked_is_kept_bit_for_bit(height: int, width: int, channels: int) -> None:
    image, mask = random(1, height, width, channels), box(height, width)
    result = only(image, mask, 256).restore(picture(1024, 1024, 3))
    assert torch.equal(result[mask == 0], image[mask == 0])


def test_where_the_mask_is_1_the_new_image_comes_through_bit_for_bit() -> None:
    painted, mask = picture(256, 256, 3, seed=2), box(256, 256)
    result = only(random(1, 256, 256, 3), mask, 256).restore(painted)
    assert torch.equal(result[mask == 1], values_of(painted)[mask[0] == 1])


@pytest.mark.parametrize("value", [0.1, 0.5])
def test_a_soft_mask_blends_by_its_value(value: float) -> None:
    image, painted = random(1, 256, 256, 3), picture(256, 256, 3, seed=2)
    result = only(image, torch.full((1, 256, 256), value), 256).restore(painted)
    assert torch.allclose(result, image * (1 - value) + values_of(painted) * value, atol=1e-6)


def touched(begin: int, end: int, old_px: int, new_px: int) -> NDArray[np.bool_]:
    """Which pixels of an axis that is scaled cover a part of `begin` to `end`."""
    pixels = np.arange(new_px)
    return (pixels * old_px < end * new_px) & ((pixels + 1) * old_px > begin * new_px)


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(16, 400), st.integers(16, 400)),
    side_px=st.sampled_from([64, 200, 512]),
    channels=st.sampled_from([3, 4]),
)
def test_after_scaling_exactly_what_covers_nothing_painted_is_kept(
    size: tuple[int, int], side_px: int, channels: int
) -> None:
    assume(min(size) * side_px >= MIN_SIDE_PX * max(size))
    original, mask = picture(*size, channels), box(*size)
    edit = only(values_of(original)[None], mask, side_px)
    result = edit.restore(Image.new("RGB", (side_px, side_px), (0, 100, 200)))[0]
    kept = (result == values_of(original.resize(edit.size, BICUBIC))).all(dim=-1)
    rows, columns = (touched(n // 3, 2 * n // 3 + 1, n, new) for n, new in zip(size, result.shape[:2], strict=True))
    assert np.array_equal(kept, ~np.outer(rows, columns))


def test_colour_under_transparency_does_not_bleed_when_scaled() -> None:
    image = torch.zeros(1, 512, 512, 4)
    image[:, :, :256] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    image[:, :, 256:] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    mask = torch.zeros(1, 512, 512)
    mask[:, -1] = 1
    result = only(image, mask, 200).restore(picture(200, 200, 3))[0, :-2]
    visible = result[..., 3] > 0.1
    assert (result[..., 0][visible] > 0.97).all() and (result[..., 1][visible] < 0.03).all()


@pytest.mark.parametrize(
    ("height", "width", "side_px", "expected"),
    [
        (1080, 1920, 1024, (576, 1024)),
        (1920, 1080, 512, (512, 288)),
        (100, 101, 256, (253, 256)),
        (4000, 250, 256, (256, 16)),
    ],
)
def test_the_result_has_the_originals_shape_with_its_long_side_as_asked(
    height: int, width: int, side_px: int, expected: tuple[int, int]
) -> None:
    edit = only(torch.zeros(1, height, width, 3), torch.ones(1, height, width), side_px)
    for painted in ((1024, 1024), (1536, 1024), (300, 500)):
        assert edit.restore(Image.new("RGB", painted)).shape == (1, *expected, 3)


def waves(height: int, width: int) -> NDArray[np.float64]:
    """`[H,W,3]`: red is a wave from left to right, green one from top to bottom, six each."""
    columns, rows = (6 * math.tau * (np.arange(count) + 0.5) / count for count in (width, height))
    red, green = np.broadcast_arrays(np.sin(columns)[None], np.sin(rows)[:, None])
    return 0.5 + 0.4 * np.stack((red, green, red * 0), axis=-1)


def shift_px(result: NDArray[np.float64], *, axis: int) -> float:
    """By how many pixels the wave along an axis is off in its first or last quarter, by least squares."""
    expected = waves(*result.shape[:2])[..., 1 - axis]
    products = np.gradient(expected, axis=axis) * (result[..., 1 - axis] - expected)
    squares = np.gradient(expected, axis=axis) ** 2
    quarter = result.shape[axis] // 4
    parts = (np.arange(quarter), np.arange(-quarter, 0))
    return max(float(abs(products.take(part, axis).sum() / squares.take(part, axis).sum())) for part in parts)


@settings(max_examples=12)
@given(
    size=st.tuples(st.integers(150, 1600), st.integers(150, 1600)),
    side_px=st.sampled_from([256, 512, 1024]),
    painted_px=st.sampled_from([512, 1000, 1024]),
)
def test_an_image_of_any_shape_comes_back_within_a_tenth_of_a_pixel(
    size: tuple[int, int], side_px: int, painted_px: int
) -> None:
    """Of a server that paints what it was sent, in its own size."""
    assume(0.3 < size[0] / size[1] < 3)
    image = torch.from_numpy(waves(*size).astype(np.float32))[None]
    edit = only(image, torch.ones(1, *size), side_px)
    sent = Image.fromarray(pixels_of(edit.opaque_files.image))
    result = edit.restore(sent.resize((painted_px, painted_px), BICUBIC))[0].numpy().astype(np.float64)
    assert shift_px(result, axis=0) < 0.1 and shift_px(result, axis=1) < 0.1


def test_transparency_of_the_new_image_is_kept_where_masked() -> None:
    image, mask, painted = random(1, 256, 256, 3), box(256, 256), picture(256, 256, 4, seed=2)
    result = only(image, mask, 256).restore(painted)
    assert np.array_equal(as_bytes(result)[mask == 1][:, 3], np.asarray(painted)[mask[0] == 1][:, 3])
    assert torch.equal(result[mask == 0][:, :3], image[mask == 0]) and (result[mask == 0][:, 3] == 1).all()


def test_colour_that_cannot_be_seen_does_not_stain_a_soft_edge() -> None:
    edit = only(torch.ones(1, 256, 256, 3), torch.full((1, 256, 256), 0.5), 256)
    result = edit.restore(Image.new("RGBA", (256, 256), (0, 0, 0, 0)))
    assert (result[..., :3] == 1).all() and (result[..., 3] == 0.5).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_square_image_is_sent_as_it_is_beside_its_mask(channels: int) -> None:
    pixels, mask = noise(1, 300, 300, channels), box(300, 300)
    edit = only(loaded(pixels), mask, 256)
    painted = mask[0].numpy() == 1
    assert np.array_equal(pixels_of(edit.opaque_files.image), pixels[0, ..., :3])
    transparent = pixels_of(edit.transparent_files.image)
    assert np.array_equal(transparent[..., :3], pixels[0, ..., :3])
    assert np.array_equal(transparent[..., 3], np.where(painted, 0, 255))
    for files in (edit.opaque_files, edit.transparent_files):
        mask_pixels = pixels_of(files.mask)
        assert (mask_pixels[painted] == [255, 255, 255, 0]).all() and (mask_pixels[~painted] == [0, 0, 0, 255]).all()


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(30, 50, (10, 40), (0, 50)), (51, 30, (0, 51), (10, 40))]
)
def test_an_image_that_is_not_square_is_padded_with_its_edges(
    height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    pixels, mask = noise(1, height, width, 3), box(height, width)
    files = only(loaded(pixels), mask, 256).opaque_files
    side = max(height, width)
    padding = ((rows[0], side - rows[1]), (columns[0], side - columns[1]))
    assert np.array_equal(pixels_of(files.image), np.pad(pixels[0], (*padding, (0, 0)), mode="edge"))
    assert np.array_equal(pixels_of(files.mask)[..., 0] == 255, np.pad(mask[0].numpy() == 1, padding, mode="edge"))


@pytest.mark.parametrize(("height", "width"), [(1600, 1600), (3000, 700), (700, 3000)])
def test_a_large_image_is_sent_smaller_with_its_mask(height: int, width: int) -> None:
    edit = only(torch.full((1, height, width, 3), 0.5), box(height, width), 1024)
    side = MAX_SENT_SIDE_PX
    assert pixels_of(edit.opaque_files.image).shape == (side, side, 3)
    for file in (edit.opaque_files.mask, edit.transparent_files.image, edit.transparent_files.mask):
        assert pixels_of(file).shape == (side, side, 4)


def test_even_noise_with_transparency_stays_under_the_limit_of_bytes() -> None:
    edit = only(random(1, 1024, 1024, 3), random(1, 1024, 1024, seed=2), 1024)
    files = edit.transparent_files
    assert MAX_FILE_BYTES * 2 / 3 < len(files.image) < MAX_FILE_BYTES == 4_000_000  # no smaller than it has to be
    assert pixels_of(files.image).shape == pixels_of(files.mask).shape
    assert pixels_of(edit.opaque_files.image).shape == (1024, 1024, 3), "what fits is not scaled down"


def test_a_single_painted_pixel_is_sent_as_one_to_edit() -> None:
    mask = torch.zeros(1, 2000, 2000)
    mask[0, 1000, 1000] = 1 / 510
    edit = only(torch.zeros(1, 2000, 2000, 3), mask, 1024)
    for files in (edit.opaque_files, edit.transparent_files):
        assert 1 <= (pixels_of(files.mask)[..., 3] == 0).sum() <= 4


def test_files_are_made_once_however_often_they_are_sent() -> None:
    edit = only(random(1, 64, 64, 3), box(64, 64), 256)
    assert edit.opaque_files is edit.opaque_files
    assert edit.transparent_files is edit.transparent_files


@pytest.mark.parametrize("masks", [1, 3])
def test_each_image_of_a_batch_gets_its_mask_or_the_only_one(masks: int) -> None:
    images, paint = random(3, 32, 32, 3), random(masks, 32, 32, seed=2)
    edits = edits_of(images, paint, 256)
    assert len(edits) == 3
    for index, edit in enumerate(edits):
        assert torch.equal(edit.image, images[index]) and torch.equal(edit.mask, paint[index % masks])
        assert edit.side_px == 256


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 1024)])
def test_an_image_of_just_the_least_size_will_do(height: int, width: int) -> None:
    assert edits_of(torch.zeros(1, height, width, 3), torch.ones(1, height, width), 256)


EMPTY = r"Open in MaskEditor.*Nothing was charged"
IMAGE, MASK = torch.zeros(1, 100, 80, 3), torch.ones(1, 100, 80)
ONE_NAN = torch.zeros(1, 100, 80)
ONE_NAN[0, -1, -1] = torch.nan
REFUSED: dict[str, tuple[Any, Tensor | None, str]] = {
    "no mask": (IMAGE, None, NEEDS_BOTH),
    "no image": (None, MASK, NEEDS_BOTH),
    "an empty mask as LoadImage gives it": (IMAGE, torch.zeros(1, 64, 64), EMPTY),
    "a negative mask": (IMAGE, -MASK, EMPTY),
    "a mask that no file of 8 bits would show": (IMAGE, MASK * 0.99 / 510, EMPTY),
    "one empty mask of two": (torch.zeros(2, 32, 32, 3), torch.eye(2)[0].reshape(2, 1, 1).expand(2, 32, 32), EMPTY),
    "a mask of another size": (
        IMAGE,
        torch.ones(1, 32, 64),
        "^Mask and Image must be the same size: the mask is 64x32, the image 80x100",
    ),
    "two masks for three images": (torch.zeros(3, 32, 32, 3), torch.ones(2, 32, 32), "3 images and 2 masks"),
    "two masks for an image": (IMAGE, torch.ones(2, 100, 80), "1 images and 2 masks"),
    "a small image": (torch.zeros(1, 15, 15, 3), torch.ones(1, 15, 15), f"15x15 pixels.*at least {MIN_SIDE_PX}"),
    "a flat image": (torch.zeros(1, 15, 400, 3), torch.ones(1, 15, 400), f"400x15 pixels.*at least {MIN_SIDE_PX}"),
    "an image flat when scaled": (torch.zeros(1, 64, 1025, 3), torch.ones(1, 64, 1025), "1025x64 pixels"),
    "a batch without images": (torch.zeros(0, 32, 32, 3), torch.ones(1, 32, 32), r"\[0, 32, 32, 3\]"),
    "a batch without masks": (IMAGE, torch.ones(0, 100, 80), r"\[0, 100, 80\]"),
    "an image without channels": (torch.zeros(100, 80), MASK, r"\[100, 80\]"),
    "a mask with channels": (IMAGE, torch.ones(1, 100, 80, 1), r"\[1, 100, 80, 1\]"),
    "a dictionary": ({"samples": IMAGE}, MASK, r"a dict; it must be a tensor"),
    "five channels": (torch.zeros(1, 100, 80, 5), MASK, r"3 or 4 channels.*\[100, 80, 5\]"),
    "an image of bytes": (IMAGE.to(torch.uint8), MASK, "torch.uint8"),
    "a mask of truths": (IMAGE, MASK.to(torch.bool), "torch.bool"),
    "one NaN in an image": (IMAGE + ONE_NAN[..., None], MASK, r"image of shape \[100, 80, 3\] holds NaN"),
    "one NaN in a mask": (IMAGE, MASK + ONE_NAN, r"mask of shape \[100, 80\] holds NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_edited_is_refused_with_the_reason(name: str) -> None:
    image, mask, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        edits_of(image, mask, 256)
    assert Charge.NO.value in str(caught.value) or str(caught.value) == NEEDS_BOTH


def test_neither_inputs_nor_their_gradients_are_touched() -> None:
    image, mask = random(1, 64, 64, 3) * 2, box(64, 64) * 2
    before = image.clone(), mask.clone()
    image.requires_grad = mask.requires_grad = True
    edit = only(image, mask, 64)
    assert edit.transparent_files
    edit.restore(picture(64, 64, 3)).zero_()
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])


def test_a_long_narrow_image_from_the_server_takes_no_minute() -> None:
    edit = edits_of(torch.rand(1, 64, 64, 3), torch.ones(1, 64, 64), 256)[0]
    began_s = time.process_time()
    assert edit.restore(Image.new("RGB", (24_000, 32))).shape == (1, 256, 256, 3)
    assert time.process_time() - began_s < 4  # as a square of 24,000 pixels it takes gigabytes and more than ten
