"""DALL·E 2's promises about an edit: what is not masked is the original's, and the answer has its shape."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dalle2.inpainting import MAX_SENT_SIDE_PX, MIN_SIDE_PX, NEEDS_BOTH, Edit, edits_of
from dalle2.tensors import resize, resize_mask
from tests.pictures import loaded, noise, saved

MAX_BYTES = 4_000_000


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def of_8_bits(*shape: int) -> Tensor:
    return loaded(noise(*shape))


def box(height: int, width: int, value: float = 1.0) -> Tensor:
    """A mask that is painted in its middle third."""
    mask = torch.zeros(1, height, width)
    mask[:, height // 3 : 2 * height // 3 + 1, width // 3 : 2 * width // 3 + 1] = value
    return mask


def only(image: Tensor, mask: Tensor, side: int) -> Edit:
    (edit,) = edits_of(image, mask, side)
    return edit


def opened(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "PNG" and image.mode == "RGBA"
        return np.asarray(image)


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_where_the_mask_is_0_every_8_bit_value_is_the_originals(side: int) -> None:
    image, mask = of_8_bits(1, side, side, 3), box(side, side)
    result = only(image, mask, side).restore(random(2, side, side, 3))
    kept = mask[0] == 0
    for picture in result:
        assert np.array_equal(saved(picture)[kept], saved(image[0])[kept])


def test_all_256_values_are_kept_through_saveimage() -> None:
    image = (torch.arange(256).reshape(1, 16, 16, 1) / 255).repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = image.expand(1, 256, 256, 3)
    mask = torch.zeros(1, 256, 256)
    mask[0, 0, 0] = 1
    result = only(image, mask, 256).restore(torch.ones(1, 256, 256, 3))
    expected = np.arange(256).repeat(256).reshape(16, 16, 16, 16).transpose(0, 2, 1, 3).reshape(256, 256)
    assert np.array_equal(saved(result[0])[1:, :, 0], expected[1:])


def test_values_that_are_none_of_8_bits_are_kept_bit_for_bit() -> None:
    image, mask = random(1, 256, 256, 3), box(256, 256)
    result = only(image, mask, 256).restore(random(1, 256, 256, 3, seed=2))
    kept = mask == 0
    assert torch.equal(result[kept], image[kept])


def test_where_the_mask_is_1_the_new_picture_comes_through_bit_for_bit() -> None:
    drawn, mask = random(1, 256, 256, 3, seed=2), box(256, 256)
    result = only(random(1, 256, 256, 3), mask, 256).restore(drawn)
    assert torch.equal(result[mask == 1], drawn[mask == 1])


@pytest.mark.parametrize("value", [0.1, 0.25, 0.5, 0.9])
def test_a_soft_mask_blends_by_its_value(value: float) -> None:
    image, drawn = random(1, 256, 256, 3), random(3, 256, 256, 3, seed=2)
    result = only(image, torch.full((1, 256, 256), value), 256).restore(drawn)
    assert torch.allclose(result, image * (1 - value) + drawn * value, atol=1e-6)


@pytest.mark.parametrize("height, width, side", [(128, 128, 256), (600, 600, 512), (300, 200, 1024), (77, 1000, 256)])
def test_after_a_resize_the_originals_resized_values_are_kept(height: int, width: int, side: int) -> None:
    image, mask = of_8_bits(1, height, width, 3), box(height, width)
    result = only(image, mask, side).restore(random(2, side, side, 3, seed=2))
    size = result.shape[1:3]
    kept = resize_mask(mask[0], *size) == 0
    for picture in result:
        assert np.array_equal(saved(picture)[kept], saved(resize(image, *size)[0])[kept])


def test_enlarging_spreads_no_paint_beyond_the_painted_pixels() -> None:
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:64, 48:96] = 1
    result = only(torch.zeros(1, 128, 128, 3), mask, 1024).restore(torch.ones(1, 1024, 1024, 3))
    assert (result[0, 256:512, 384:768] == 1).all()
    result[0, 256:512, 384:768] = 0
    assert (result == 0).all()


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (1024, 1024, 1024, (1024, 1024)),
        (1080, 1920, 1024, (576, 1024)),
        (1920, 1080, 512, (512, 288)),
        (100, 101, 256, (253, 256)),
        (33, 17, 1024, (1024, 528)),
        (4000, 250, 256, (256, 16)),
    ],
)
def test_the_answer_has_the_originals_shape_with_its_long_side_as_asked(
    height: int, width: int, side: int, expected: tuple[int, int]
) -> None:
    edit = only(torch.zeros(1, height, width, 3), torch.ones(1, height, width), side)
    assert edit.restore(torch.zeros(3, side, side, 3)).shape == (3, *expected, 3)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(height=st.integers(16, 1400), width=st.integers(16, 1400), side=st.sampled_from([256, 512, 1024]))
def test_an_image_of_any_shape_comes_back_where_it_was(height: int, width: int, side: int) -> None:
    """A server that gives back what it was sent, scaled, changes nothing but by less than a pixel's shift."""
    if min(height, width) * side / max(height, width) < MIN_SIDE_PX:
        return
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    image = torch.stack((rows.expand(height, width), columns.expand(height, width), rows * columns), dim=-1)
    edit = only(image[None], torch.ones(1, height, width), side)
    sent = opened(edit.files(opaque=True, max_bytes=MAX_BYTES)[0])
    drawn = torch.from_numpy(np.asarray(Image.fromarray(sent).convert("RGB").resize((side, side))).copy()) / 255
    result = edit.restore(drawn[None])
    expected = resize(image[None], *result.shape[1:3])
    shift = torch.tensor([1 / result.shape[1], 1 / result.shape[2], 1 / result.shape[1] + 1 / result.shape[2]])
    assert ((result - expected).abs() < 1.5 * shift + 2 / 255).all()


def test_transparency_of_the_original_is_kept_where_not_masked() -> None:
    image, mask = random(1, 256, 256, 4), box(256, 256)
    drawn = random(1, 256, 256, 3, seed=2)
    result = only(image, mask, 256).restore(drawn)
    assert torch.equal(result[mask == 0], image[mask == 0])
    assert torch.equal(result[..., :3][mask == 1], drawn[mask == 1])
    assert (result[..., 3][mask == 1] == 1).all()


def test_transparency_of_the_new_picture_is_kept_where_masked() -> None:
    image, mask, drawn = random(1, 256, 256, 3), box(256, 256), random(2, 256, 256, 4, seed=2)
    result = only(image, mask, 256).restore(drawn)
    assert result.shape == (2, 256, 256, 4)
    assert torch.equal(result[0][mask[0] == 1][:, 3], drawn[0][mask[0] == 1][:, 3])
    assert torch.equal(result[1][mask[0] == 0][:, :3], image[mask == 0])
    assert (result[1][mask[0] == 0][:, 3] == 1).all()


def test_colour_that_cannot_be_seen_does_not_stain_a_soft_edge() -> None:
    white, nothing = torch.ones(1, 256, 256, 3), torch.zeros(1, 256, 256, 4)
    result = only(white, torch.full((1, 256, 256), 0.5), 256).restore(nothing)
    assert (result[..., :3] == 1).all() and (result[..., 3] == 0.5).all()


def test_a_square_image_is_sent_as_it_is() -> None:
    image, mask = of_8_bits(1, 300, 300, 3), box(300, 300)
    file, mask_file = (opened(each) for each in only(image, mask, 256).files(opaque=False, max_bytes=MAX_BYTES))
    edit = mask[0].numpy() == 1
    assert np.array_equal(file[..., :3], (image[0] * 255).round().numpy())
    assert np.array_equal(file[..., 3] == 0, edit) and np.array_equal(file[..., 3] == 255, ~edit)
    assert (mask_file[edit] == [255, 255, 255, 0]).all() and (mask_file[~edit] == [0, 0, 0, 255]).all()


def test_an_opaque_file_has_no_hole() -> None:
    file, _ = only(random(1, 64, 64, 4), box(64, 64), 256).files(opaque=True, max_bytes=MAX_BYTES)
    assert (opened(file)[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(30, 50, (10, 40), (0, 50)), (51, 30, (0, 51), (10, 40))]
)
def test_an_image_that_is_not_square_is_padded_with_its_edges(
    height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image, mask = of_8_bits(1, height, width, 3), box(height, width)
    file, mask_file = (opened(each) for each in only(image, mask, 256).files(opaque=False, max_bytes=MAX_BYTES))
    side = max(height, width)
    assert file.shape == mask_file.shape == (side, side, 4)
    original = (image[0] * 255).round().to(torch.uint8).numpy()
    pad = ((rows[0], side - rows[1]), (columns[0], side - columns[1]))
    assert np.array_equal(file[..., :3], np.pad(original, (*pad, (0, 0)), mode="edge"))
    assert np.array_equal(mask_file[..., 0] == 255, np.pad(mask[0].numpy() == 1, pad, mode="edge"))


@pytest.mark.parametrize(("height", "width"), [(1600, 1600), (3000, 700), (700, 3000)])
def test_a_large_image_is_sent_smaller_with_its_mask(height: int, width: int) -> None:
    edit = only(torch.full((1, height, width, 3), 0.5), box(height, width), 1024)
    shapes = {opened(file).shape for file in edit.files(opaque=False, max_bytes=MAX_BYTES)}
    assert shapes == {(MAX_SENT_SIDE_PX, MAX_SENT_SIDE_PX, 4)}


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 300_000, 20_000, 1000])
def test_even_noise_stays_under_the_limit_with_image_and_mask_of_one_size(opaque: bool, max_bytes: int) -> None:
    side = 1300 if max_bytes == MAX_BYTES else 500
    edit = only(random(1, side, side, 3), (random(1, side, side, seed=2) > 0.5).float(), 1024)
    image, mask = edit.files(opaque=opaque, max_bytes=max_bytes)
    assert max(len(image), len(mask)) < max_bytes
    assert opened(image).shape == opened(mask).shape
    assert max(len(image), len(mask)) > max_bytes / 3, "no smaller than it has to be"


def test_a_file_that_fits_is_not_scaled_down() -> None:
    image, _ = only(random(1, 1024, 1024, 3), box(1024, 1024), 256).files(opaque=True, max_bytes=MAX_BYTES)
    assert opened(image).shape == (1024, 1024, 4)


@pytest.mark.parametrize("value", [0.004, 1e-6])
def test_a_faintly_painted_pixel_is_sent_as_one_to_edit(value: float) -> None:
    mask = torch.zeros(1, 2000, 2000)
    mask[0, 1000, 1000] = value
    _, mask_file = only(torch.zeros(1, 2000, 2000, 3), mask, 1024).files(opaque=True, max_bytes=MAX_BYTES)
    assert 1 <= (opened(mask_file)[..., 3] == 0).sum() <= 4


def test_without_image_and_mask_there_is_nothing_to_edit() -> None:
    assert edits_of(None, None, 1024) == []


@pytest.mark.parametrize(("image", "mask"), [(torch.zeros(1, 64, 64, 3), None), (None, torch.ones(1, 64, 64))])
def test_one_without_the_other_is_refused(image: Tensor | None, mask: Tensor | None) -> None:
    with pytest.raises(ValueError, match=NEEDS_BOTH):
        edits_of(image, mask, 1024)


@pytest.mark.parametrize("masks", [1, 3])
def test_each_image_of_a_batch_gets_its_mask_or_the_only_one(masks: int) -> None:
    images = random(3, 32, 32, 3)
    paint = random(masks, 32, 32, seed=2)
    edits = edits_of(images, paint, 256)
    assert len(edits) == 3
    for index, edit in enumerate(edits):
        assert torch.equal(edit.image, images[index])
        assert torch.equal(edit.mask, paint[index % masks])
        assert edit.side == 256


@pytest.mark.parametrize(("images", "masks"), [(3, 2), (1, 2), (2, 3)])
def test_counts_that_do_not_fit_are_refused_with_both(images: int, masks: int) -> None:
    with pytest.raises(ValueError, match=f"{images} images and {masks} masks"):
        edits_of(torch.zeros(images, 32, 32, 3), torch.ones(masks, 32, 32), 256)


def test_an_image_and_a_mask_without_a_batch_dimension_will_do() -> None:
    (edit,) = edits_of(random(32, 48, 3), torch.ones(32, 48), 256)
    assert edit.image.shape == (32, 48, 3) and edit.mask.shape == (32, 48)


EMPTY = {
    "as LoadImage gives it": torch.zeros(1, 64, 64),
    "of the image's size": torch.zeros(1, 100, 80),
    "negative": torch.full((1, 100, 80), -1.0),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_mask_in_which_nothing_is_painted_is_refused_with_the_way_to_paint(name: str) -> None:
    with pytest.raises(ValueError, match=r"Open in MaskEditor.*Nothing was charged"):
        edits_of(torch.zeros(1, 100, 80, 3), EMPTY[name], 256)


def test_one_empty_mask_of_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="The mask is empty"):
        edits_of(torch.zeros(2, 32, 32, 3), torch.stack((torch.ones(32, 32), torch.zeros(32, 32))), 256)


def test_a_painted_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"^Mask and Image must be the same size: the mask is 64x64, the image 80x100"):
        edits_of(torch.zeros(1, 100, 80, 3), torch.ones(1, 64, 64), 256)


@pytest.mark.parametrize(("height", "width"), [(15, 15), (15, 400), (64, 1025)])
def test_an_image_that_is_too_small_or_too_narrow_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width}x{height} pixels.*at least {MIN_SIDE_PX}"):
        edits_of(torch.zeros(1, height, width, 3), torch.ones(1, height, width), 256)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 1024)])
def test_an_image_of_just_the_least_size_will_do(height: int, width: int) -> None:
    assert edits_of(torch.zeros(1, height, width, 3), torch.ones(1, height, width), 256)


STRANGE = {
    "an image without rows": (torch.zeros(1, 0, 8, 3), torch.ones(1, 0, 8), r"\[1, 0, 8, 3\]"),
    "no image": (torch.zeros(0, 32, 32, 3), torch.ones(1, 32, 32), r"\[0, 32, 32, 3\]"),
    "no mask": (torch.zeros(1, 32, 32, 3), torch.ones(0, 32, 32), r"\[0, 32, 32\]"),
    "a flat image": (torch.zeros(32, 32), torch.ones(1, 32, 32), r"\[32, 32\]"),
    "a video": (torch.zeros(1, 1, 32, 32, 3), torch.ones(1, 32, 32), r"\[1, 1, 32, 32, 3\]"),
    "a mask with channels": (torch.zeros(1, 32, 32, 3), torch.ones(1, 32, 32, 1), r"\[1, 32, 32, 1\]"),
    "five channels": (torch.zeros(1, 32, 32, 5), torch.ones(1, 32, 32), "3 or 4 channels"),
    "bytes": (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.ones(1, 32, 32), "torch.uint8"),
    "an image with NaN": (torch.full((1, 32, 32, 3), torch.nan), torch.ones(1, 32, 32), "NaN"),
    "a mask with NaN": (torch.zeros(1, 32, 32, 3), torch.full((1, 32, 32), torch.nan), "NaN"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_image_or_no_mask_is_refused_with_what_it_is(name: str) -> None:
    image, mask, message = STRANGE[name]
    with pytest.raises(ValueError, match=message):
        edits_of(image, mask, 256)


def test_inputs_are_not_written_to() -> None:
    image, mask = random(1, 64, 64, 3) * 2, box(64, 64) * 2
    before = image.clone(), mask.clone()
    edit = only(image, mask, 64)
    edit.files(opaque=False, max_bytes=MAX_BYTES)
    edit.restore(random(1, 64, 64, 3)).zero_()
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])
