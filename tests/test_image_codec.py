"""The codec: tensors to PNG files, files to one tensor, every value exact; `test_codec_limits` has the rest."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dalle2 import image_codec
from dalle2.image_codec import PictureBatch, decode_images, encode_mask_png, encode_rgba_png
from dalle2.tensors import with_alpha
from tests.loopback import LONG_S, wait_for
from tests.pictures import KINDS, as_bytes, file_of, loaded, noise, picture, png_of, saved
from tests.png_reader import read_png


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    return read_png(file).pixels


ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


def test_each_of_the_256_values_survives_the_way_out_and_back() -> None:
    file = encode_rgba_png(loaded(ALL_VALUES))
    assert np.array_equal(pixels_of(file)[..., :3], ALL_VALUES[0])
    decoded = decode_images([file])
    assert np.array_equal(as_bytes(decoded), ALL_VALUES)
    assert torch.equal(decoded, loaded(ALL_VALUES))


def test_each_of_the_256_values_survives_comfyuis_saveimage_which_truncates() -> None:
    assert np.array_equal(saved(decode_images([file_of(Image.fromarray(ALL_VALUES[0]))])), ALL_VALUES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_dtype_is_rounded_to_the_nearest_value(dtype: torch.dtype) -> None:
    image = loaded(ALL_VALUES).to(dtype)
    expected = np.floor(image.to(torch.float64).numpy() * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(pixels_of(encode_rgba_png(image))[..., :3], expected[0])


def test_values_are_rounded_and_not_cut_off() -> None:
    image = torch.full((2, 2, 3), 199.6 / 255)
    mask = torch.full((2, 2), 1 - 99.6 / 255)
    assert pixels_of(encode_rgba_png(image, mask))[0, 0].tolist() == [200, 200, 200, 100]


@pytest.mark.parametrize(("value", "expected"), [(-0.5, 0), (1.5, 255), (float("inf"), 255), (float("-inf"), 0)])
def test_values_beyond_the_range_are_clamped(value: float, expected: int) -> None:
    file = encode_rgba_png(torch.full((2, 2, 3), value), torch.full((2, 2), value))
    assert pixels_of(file)[1, 1].tolist() == [expected] * 3 + [255 - expected]


def test_alpha_is_one_minus_the_mask_and_colour_stays_under_it() -> None:
    image = torch.full((1, 2, 3, 3), 0.2)
    mask = torch.tensor([[[0.0, 0.4, 1.0], [1.0, 0.0, 0.0]]])
    pixels = pixels_of(encode_rgba_png(image, mask))
    assert pixels[..., 3].tolist() == [[255, 153, 0], [0, 255, 255]]
    assert (pixels[..., :3] == 51).all()


def test_the_mask_replaces_the_alpha_that_an_image_has() -> None:
    pixels = pixels_of(encode_rgba_png(torch.zeros(2, 2, 4), torch.zeros(2, 2)))
    assert (pixels[..., 3] == 255).all()


@pytest.mark.parametrize(("channels", "alpha"), [(3, 255), (4, 51)])
def test_without_a_mask_alpha_is_the_images_own_or_opaque(channels: int, alpha: int) -> None:
    pixels = pixels_of(encode_rgba_png(torch.full((2, 2, channels), 0.2)))
    assert pixels.shape == (2, 2, 4)
    assert (pixels[..., 3] == alpha).all()


@pytest.mark.parametrize("value", [1e-30, 0.001, 0.5, 1.0])
def test_any_painted_pixel_of_a_mask_means_edit(value: float) -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 1] = value
    assert pixels_of(encode_mask_png(mask)).tolist() == [
        [[0, 0, 0, 255], [255, 255, 255, 0]],
        [[0, 0, 0, 255], [0, 0, 0, 255]],
    ]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([3, 4]), seed=st.integers(0, 2**31)
)
def test_any_image_is_decoded_to_what_was_encoded(height: int, width: int, channels: int, seed: int) -> None:
    image = loaded(noise(1, height, width, channels, seed=seed))
    assert torch.equal(with_alpha(decode_images([encode_rgba_png(image)])), with_alpha(image))


@pytest.mark.parametrize("make", [lambda t: t.expand(1, 5, 7, 3), lambda t: t.transpose(0, 1), lambda t: t.flip(0)])
def test_the_layout_in_memory_does_not_matter(make: Callable[[Tensor], Tensor]) -> None:
    image = make(torch.rand(5, 7, 3))
    assert encode_rgba_png(image) == encode_rgba_png(image.contiguous())


def test_neither_inputs_nor_their_gradients_are_touched() -> None:
    image = torch.tensor([[[0.1, 2.0, -1.0]]], requires_grad=True)
    mask = torch.tensor([[3.0]], requires_grad=True)
    encode_rgba_png(image, mask)
    assert image.tolist() == torch.tensor([[[0.1, 2.0, -1.0]]]).tolist() and mask.tolist() == [[3.0]]


@pytest.mark.parametrize(
    "shape", [(), (5,), (5, 5), (2, 5, 5, 3), (1, 1, 5, 5, 3), (0, 5, 5, 3), (1, 0, 5, 3), (1, 5, 5, 0)]
)
def test_an_image_of_another_rank_or_of_nothing_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"shape {list(shape)}".replace("[", r"\[").replace("]", r"\]")):
        encode_rgba_png(torch.zeros(shape))


@pytest.mark.parametrize("channels", [1, 2, 5, 64])
def test_an_image_of_other_channels_is_refused_with_its_shape(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"3 or 4 channels.*\[1, 4, 6, {channels}\]"):
        encode_rgba_png(torch.zeros(1, 4, 6, channels))


@pytest.mark.parametrize("shape", [(), (5,), (2, 4, 6), (1, 1, 4, 6), (1, 0, 6)])
def test_a_mask_of_another_rank_or_of_nothing_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    expected = f"One mask must be.*shape {list(shape)}".replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=expected):
        encode_rgba_png(torch.zeros(1, 4, 6, 3), torch.zeros(shape))
    with pytest.raises(ValueError, match=expected):
        encode_mask_png(torch.zeros(shape))


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"^Mask and Image must be the same size: the mask is 64x32, the image 6x4 "):
        encode_rgba_png(torch.zeros(1, 4, 6, 3), torch.zeros(1, 32, 64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64])
def test_numbers_that_are_not_floating_point_are_refused_with_their_dtype(dtype: torch.dtype) -> None:
    for encode, shape in ((encode_rgba_png, (1, 4, 6, 3)), (encode_mask_png, (1, 4, 6))):
        with pytest.raises(ValueError, match=rf"{list(shape)}.*{dtype}".replace("[", r"\[").replace("]", r"\]")):
            encode(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("side", [4, 1700])
def test_a_single_nan_is_refused_also_where_the_picture_would_be_scaled_down(side: int, dtype: torch.dtype) -> None:
    image, mask = torch.zeros(1, side, side, 3, dtype=dtype), torch.zeros(1, side, side, dtype=dtype)
    image[0, -1, -1, 2] = mask[0, -1, -1] = float("nan")
    with pytest.raises(ValueError, match=rf"image of shape \[1, {side}, {side}, 3\] holds NaN"):
        encode_rgba_png(image)
    with pytest.raises(ValueError, match=rf"mask of shape \[1, {side}, {side}\] holds NaN"):
        encode_rgba_png(torch.zeros(1, side, side, 3), mask)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1024, 1536, (1024, 1536)), (1536, 1024, (1536, 1024)), (1600, 1600, (1254, 1254)), (1024, 2048, (886, 1773))],
)
def test_more_than_the_limit_is_scaled_down_to_it_image_and_mask_together(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    mask = torch.zeros(1, height, width)
    sizes = {
        pixels_of_size(encode_rgba_png(torch.zeros(1, height, width, 3), mask)),
        pixels_of_size(encode_mask_png(mask)),
    }
    assert sizes == {expected}


def pixels_of_size(file: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(file)) as image:
        return image.height, image.width


def test_colour_under_the_mask_stays_when_scaled() -> None:
    mask = torch.zeros(1, 1600, 1600)
    mask[:, 400:800, 400:800] = 1
    pixels = np.asarray(Image.open(io.BytesIO(encode_rgba_png(torch.full((1, 1600, 1600, 3), 0.6), mask))))
    assert (pixels[..., :3] == 153).all()
    assert set(np.unique(pixels[..., 3])) >= {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_format_is_decoded_as_pillow_sees_it(kind: str) -> None:
    file = file_of(picture(20, 30, 3), kind)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    decoded = decode_images([file])
    assert decoded.dtype == torch.float32 and decoded.is_contiguous()
    assert torch.equal(decoded, loaded(expected[None]))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_pixel_is_decoded_right(name: str) -> None:
    file, expected = KINDS[name]
    assert as_bytes(decode_images([file]))[0, 0, 0].tolist() == expected


def test_grey_of_16_bits_is_scaled_and_rounded_for_all_values() -> None:
    values = np.arange(2**16).reshape(256, 256)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    decoded = as_bytes(decode_images([png_of(256, 256, 16, 0, rows)]))[0, ..., 0]
    assert np.array_equal(decoded, np.floor(values / 257 + 0.5))


def test_pictures_of_other_sizes_are_scaled_to_the_first() -> None:
    files = [file_of(Image.new("RGB", size, (10, 20, 30))) for size in ((8, 6), (80, 60), (3, 5))]
    decoded = decode_images(files)
    assert decoded.shape == (3, 6, 8, 3)
    assert (as_bytes(decoded) == [10, 20, 30]).all()


def test_a_batch_has_alpha_where_one_picture_has_and_keeps_what_came_before() -> None:
    arrays = [np.asarray(picture(6, 8, channels, seed=channels)) for channels in (3, 4, 3)]
    decoded = as_bytes(decode_images([file_of(Image.fromarray(array)) for array in arrays]))
    assert decoded.shape == (3, 6, 8, 4)
    for array, pixels in zip(arrays, decoded, strict=True):
        assert np.array_equal(pixels[..., : array.shape[2]], array)
    assert (decoded[[0, 2], ..., 3] == 255).all()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_pictures_may_arrive_in_any_order(order: tuple[int, ...]) -> None:
    pictures = [picture(5, 5, 3 + index % 2, seed=index) for index in range(4)]
    batch = PictureBatch(4, 5, 5)
    for index in order:
        batch.put(index, file_of(pictures[index]))
    expected = np.stack([np.asarray(each.convert("RGBA")) for each in pictures])
    assert np.array_equal(as_bytes(batch.tensor), expected)


def test_pictures_may_arrive_in_many_threads() -> None:
    pictures = [picture(40, 40, 3 + (index == 7), seed=index) for index in range(12)]
    batch = PictureBatch(12, 40, 40)
    threads = [threading.Thread(target=batch.put, args=(index, file_of(pictures[index]))) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    expected = np.stack([np.asarray(each.convert("RGBA")) for each in pictures])
    assert np.array_equal(as_bytes(batch.tensor), expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_thumbnail_is_small_and_looks_like_its_picture(channels: int) -> None:
    batch = PictureBatch(1, 1024, 700)
    thumbnail = batch.put(0, file_of(Image.new("RGBA", (700, 1024), (10, 20, 30, 255 if channels == 3 else 40))))
    assert max(thumbnail.size) == 512 and abs(thumbnail.width - 350) <= 1
    assert thumbnail.getpixel((100, 100)) == (10, 20, 30, 40)[:channels]


def test_decodes_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both_here = threading.Barrier(2)
    decode = image_codec._decode

    def meeting(file: bytes) -> Image.Image:
        both_here.wait(LONG_S)
        return decode(file)

    monkeypatch.setattr(image_codec, "WORKERS", 2)
    monkeypatch.setattr(image_codec, "_decoding", threading.BoundedSemaphore(2))
    monkeypatch.setattr(image_codec, "_decode", meeting)
    assert decode_images([file_of(picture(4, 4, 3))] * 6).shape == (6, 4, 4, 3)


class Door:
    """A semaphore of two that knows who has come to it."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._semaphore = threading.BoundedSemaphore(2)

    def __enter__(self) -> None:
        self.came.append(threading.get_ident())
        self._semaphore.acquire()

    def __exit__(self, *error: object) -> None:
        self._semaphore.release()


def test_many_arrivals_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    lock = threading.Lock()
    both_here = threading.Barrier(2)
    door = Door()

    def meeting(file: bytes) -> Image.Image:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both_here.wait(LONG_S)
        wait_for(lambda: len(door.came) == 12)
        with lock:
            running -= 1
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(image_codec, "_decoding", door)
    monkeypatch.setattr(image_codec, "_decode", meeting)
    batches = [PictureBatch(4, 4, 4) for _ in range(3)]
    threads = [threading.Thread(target=batch.put, args=(index, b"")) for batch in batches for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert most == 2


def test_pictures_are_decoded_into_one_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    empty = torch.empty

    def counted(*size: int, **options: object) -> Tensor:
        sizes.append(size)
        return empty(*size, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", counted)
    batch = PictureBatch(5, 6, 8)
    place = batch.tensor.data_ptr()
    for index in range(5):
        batch.put(index, file_of(picture(6, 8, 3)))
    assert batch.tensor.data_ptr() == place
    assert sizes == [(5, 6, 8, 3)]
