"""The codec: tensors to PNG files, files to one tensor, every value exact, and PictureError for all the rest."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
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
from dalle2.image_codec import (
    MAX_DECODED_PIXELS,
    PictureBatch,
    PictureError,
    decode_images,
    encode_mask_png,
    encode_rgba_png,
)
from dalle2.tensors import resize, resize_mask, with_alpha, within
from tests.pictures import loaded, noise, saved
from tests.png_reader import read_png
from tools.package import ROOT

PATIENCE_S = 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(*shape: int, seed: int = 1, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(noise(*shape, seed=seed))
    return image.convert(mode) if mode else image


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    return read_png(file).pixels


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return (tensor * 255).round().to(torch.uint8).numpy()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, depth: int, colour: int, data: bytes, *extra: bytes) -> bytes:
    """A PNG file made by hand; `data` are its rows, each behind its filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


# Encoding: values.


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


# Encoding: what is refused.


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


# Scaling.


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
    image = torch.tensor([0.1, 0.5, 0.9]).expand(2, 31, 17, 3)
    scaled = resize(image, 40, 9)
    assert scaled.shape == (2, 40, 9, 3)
    assert torch.allclose(scaled, image[:, :1, :1].expand(2, 40, 9, 3), atol=1e-6)


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


def test_colour_under_the_mask_stays_when_scaled() -> None:
    mask = torch.zeros(1, 1600, 1600)
    mask[:, 400:800, 400:800] = 1
    pixels = np.asarray(Image.open(io.BytesIO(encode_rgba_png(torch.full((1, 1600, 1600, 3), 0.6), mask))))
    assert (pixels[..., :3] == 153).all()
    assert set(np.unique(pixels[..., 3])) >= {0, 255}


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


# Decoding: what servers send.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_format_is_decoded_as_pillow_sees_it(kind: str) -> None:
    file = file_of(picture(20, 30, 3), kind)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    decoded = decode_images([file])
    assert decoded.dtype == torch.float32 and decoded.is_contiguous()
    assert torch.equal(decoded, loaded(expected[None]))


MODES: dict[str, tuple[bytes, list[int]]] = {
    "black and white": (file_of(Image.new("1", (2, 1), 1)), [255, 255, 255]),
    "grey": (file_of(Image.new("L", (2, 1), 77)), [77, 77, 77]),
    "grey with alpha": (file_of(Image.new("LA", (2, 1), (77, 88))), [77, 77, 77, 88]),
    "grey of 16 bits": (png_of(2, 1, 16, 0, b"\0" + struct.pack(">HH", 30000, 30000)), [117, 117, 117]),
    "grey with a transparent value": (
        png_of(2, 1, 8, 0, b"\0\x07\x07", chunk(b"tRNS", struct.pack(">H", 7))),
        [7, 7, 7, 0],
    ),
    "colour of 16 bits": (
        png_of(2, 1, 16, 2, b"\0" + struct.pack(">6H", *[257 * v for v in (1, 2, 3)] * 2)),
        [1, 2, 3],
    ),
    "colour with a transparent value": (
        png_of(2, 1, 8, 2, b"\0" + bytes([1, 2, 3] * 2), chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))),
        [1, 2, 3, 0],
    ),
    "palette": (png_of(2, 1, 8, 3, b"\0\1\1", chunk(b"PLTE", bytes([9, 9, 9, 4, 5, 6]))), [4, 5, 6]),
    "palette with transparency": (
        png_of(2, 1, 8, 3, b"\0\0\0", chunk(b"PLTE", bytes([4, 5, 6])), chunk(b"tRNS", b"\x80")),
        [4, 5, 6, 128],
    ),
    "palette of 16 colours": (png_of(2, 1, 4, 3, b"\0\x11", chunk(b"PLTE", bytes([9, 9, 9, 4, 5, 6]))), [4, 5, 6]),
    "opaque alpha": (file_of(Image.new("RGBA", (2, 1), (1, 2, 3, 255))), [1, 2, 3]),
    "ink": (file_of(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"), [255, 255, 255]),
    "grey JPEG": (file_of(Image.new("L", (16, 16), 77), "JPEG"), [77, 77, 77]),
    "transparent WebP": (
        file_of(Image.new("RGBA", (2, 1), (1, 2, 3, 4)), "WEBP", lossless=True, exact=True),
        [1, 2, 3, 4],
    ),
    "animated PNG": (
        file_of(Image.new("RGB", (2, 1), (1, 2, 3)), save_all=True, append_images=[Image.new("RGB", (2, 1))]),
        [1, 2, 3],
    ),
    "animated WebP": (
        file_of(
            Image.new("RGB", (2, 1), (1, 2, 3)),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (2, 1))],
            lossless=True,
        ),
        [1, 2, 3],
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_each_kind_of_pixel_is_decoded_right(name: str) -> None:
    file, expected = MODES[name]
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
        thread.join(PATIENCE_S)
    expected = np.stack([np.asarray(each.convert("RGBA")) for each in pictures])
    assert np.array_equal(as_bytes(batch.tensor), expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_thumbnail_is_small_and_looks_like_its_picture(channels: int) -> None:
    batch = PictureBatch(1, 1024, 700)
    thumbnail = batch.put(0, file_of(Image.new("RGBA", (700, 1024), (10, 20, 30, 255 if channels == 3 else 40))))
    assert max(thumbnail.size) == 512 and abs(thumbnail.width - 350) <= 1
    assert thumbnail.getpixel((100, 100)) == (10, 20, 30, 40)[:channels]


# Decoding: what makes it fast, without a clock.


def test_decodes_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both_here = threading.Barrier(2)
    decode = image_codec._decode

    def meeting(file: bytes) -> Image.Image:
        both_here.wait(PATIENCE_S)
        return decode(file)

    monkeypatch.setattr(image_codec, "WORKERS", 2)
    monkeypatch.setattr(image_codec, "_decoding", threading.BoundedSemaphore(2))
    monkeypatch.setattr(image_codec, "_decode", meeting)
    assert decode_images([file_of(picture(4, 4, 3))] * 6).shape == (6, 4, 4, 3)


def test_many_arrivals_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    lock = threading.Lock()

    def slow(file: bytes) -> Image.Image:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(image_codec, "_decoding", threading.BoundedSemaphore(2))
    monkeypatch.setattr(image_codec, "_decode", slow)
    batches = [PictureBatch(4, 4, 4) for _ in range(3)]
    threads = [threading.Thread(target=batch.put, args=(index, b"")) for batch in batches for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
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


# Decoding: what hostile servers send.


BOMB = zlib.compress(b"\0" * 2**24, 9)
LAUGHS = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
)
NOT_PICTURES = {
    "nothing": b"",
    "one byte": b"\x89",
    "text": b"The picture could not be drawn.",
    "JSON": b'{"error": "no"}',
    "web page": b"<!DOCTYPE html><title>502</title>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "billion laughs": LAUGHS + b"]><svg>&j;</svg>",
    "GIF": file_of(picture(4, 4, mode="P"), "GIF"),
    "TIFF": file_of(picture(4, 4, 3), "TIFF"),
    "BMP": file_of(picture(4, 4, 3), "BMP"),
    "ZIP": b"PK\x03\x04" + bytes(100),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "zeros": bytes(1000),
    "signature only": SIGNATURE,
    "header only": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)),
    "no pixels": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
    "100000 x 100000": png_of(100_000, 100_000, 8, 2, b"\0"),
    "10000 x 10000": png_of(10_000, 10_000, 8, 2, b"\0"),
    "one row too many": png_of(4096, MAX_DECODED_PIXELS // 4096 + 1, 8, 2, b"\0"),
    "a billion wide": png_of(2**31 - 1, 1, 8, 2, b"\0"),
    "unknown colour type": png_of(4, 4, 8, 7, b"\0"),
    "unknown depth": png_of(4, 4, 3, 2, b"\0"),
    "no palette": png_of(2, 1, 8, 3, b"\0\0\1"),
    "unknown filter": png_of(2, 1, 8, 0, b"\7\0\0"),
    "text bomb": png_of(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"a\0\0" + BOMB)),
    "international text bomb": png_of(1, 1, 8, 0, b"\0\0", chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "short colour profile": png_of(1, 1, 8, 0, b"\0\0")[:-12] + chunk(b"iCCP", b"a"),
}
RIGHT_ALL_THE_SAME = {
    "colour profile bomb": png_of(1, 1, 8, 0, b"\0\x07", chunk(b"iCCP", b"a\0\0" + BOMB)),
    "pixel bomb": png_of(1, 1, 8, 0, b"\0\x07" + bytes(2**24)),
    "rubbish behind the end": png_of(1, 1, 8, 0, b"\0\x07") + bytes(1000),
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_ends_in_a_picture_error(name: str) -> None:
    with pytest.raises(PictureError) as raised:
        decode_images([NOT_PICTURES[name]])
    assert len(str(raised.value)) < 200
    batch = PictureBatch(1, 4, 4)
    with pytest.raises(PictureError):
        batch.put(0, NOT_PICTURES[name])


@pytest.mark.parametrize("name", RIGHT_ALL_THE_SAME)
def test_what_is_a_picture_behind_a_bomb_is_decoded(name: str) -> None:
    try:
        decoded = decode_images([RIGHT_ALL_THE_SAME[name]])
    except PictureError:
        return
    assert as_bytes(decoded).ravel().tolist() == [7, 7, 7]


def test_no_pictures_at_all_is_an_error() -> None:
    with pytest.raises(PictureError, match="no picture"):
        decode_images([])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_cut_off_anywhere_is_right_or_a_picture_error(kind: str) -> None:
    file = file_of(picture(16, 16, 3), kind)
    whole = decode_images([file])
    for length in range(len(file)):
        try:
            decoded = decode_images([file[:length]])
        except PictureError:
            continue
        assert torch.equal(decoded, whole), f"{length} of {len(file)} bytes"


@settings(deadline=None, derandomize=True, max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(MODES)))
def test_a_damaged_picture_is_decoded_or_a_picture_error(data: st.DataObject, name: str) -> None:
    file = bytearray(MODES[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    damaged = with_right_checksums(bytes(file))
    try:
        decoded = decode_images([damaged])
    except PictureError:
        return
    assert decoded.shape[0] == 1 and decoded.shape[3] in (3, 4)


def with_right_checksums(file: bytes) -> bytes:
    """A PNG file whose damage no CRC gives away."""
    if not file.startswith(SIGNATURE):
        return file
    result, at = SIGNATURE, len(SIGNATURE)
    while at + 8 <= len(file):
        end = at + 8 + int.from_bytes(file[at : at + 4], "big")
        if end > len(file):
            return result + file[at:]
        result += file[at:end] + struct.pack(">I", zlib.crc32(file[at + 4 : end]))
        at = end + 4
    return result


MEASURED = """
import resource, sys, torch
from tools.package import load_package
load_package()
from dalle2.image_codec import PictureError, decode_images, encode_rgba_png
from tests.test_image_codec import NOT_PICTURES, RIGHT_ALL_THE_SAME

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

encode_rgba_png(torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64))
before = peak_mib()
for file in (*NOT_PICTURES.values(), *RIGHT_ALL_THE_SAME.values()):
    try:
        decode_images([file])
    except PictureError:
        pass
print(peak_mib() - before)
image, mask = torch.full((1, 4096, 4096, 3), 0.5), torch.full((1, 4096, 4096), 0.5)
before = peak_mib()
encode_rgba_png(image, mask)
print(peak_mib() - before)
"""


@pytest.fixture(scope="module")
def peaks_mib() -> list[float]:
    """What a fresh process takes, at the most, for all hostile files, and for a large image."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


on_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such measure; memory is the same there")


@on_unix
def test_hostile_pictures_take_little_memory(peaks_mib: list[float]) -> None:
    assert peaks_mib[0] < 64


@on_unix
def test_a_large_image_is_scaled_down_before_it_is_converted(peaks_mib: list[float]) -> None:
    assert peaks_mib[1] < 100, "a copy of the image has 192 MiB"
