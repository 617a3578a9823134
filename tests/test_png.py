"""The PNG writer, read back by Pillow and by `png_reader`, a second decoder written from the specification."""

from __future__ import annotations

import io
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dalle2 import png
from dalle2.png import write_png
from tests.loopback import LONG_S
from tests.pictures import file_of, noise
from tests.png_reader import read_png

Pixels = NDArray[np.uint8]

SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4


def slope(*shape: int) -> Pixels:
    """Smooth, with a different slope in each direction and channel."""
    rows, columns, channels = np.indices(shape)
    return np.asarray((rows * 3 + columns * 5) * (channels + 1) // 7 % 256, np.uint8)


def black(*shape: int) -> Pixels:
    return np.zeros(shape, np.uint8)


def photo(side: int) -> Pixels:
    """Waves of all lengths and a little noise, as in a picture from a camera."""
    rng = np.random.default_rng(2)
    spectrum = np.fft.fft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = np.inf
    spectrum *= (np.exp(-((frequency / 0.18) ** 2)) / frequency)[..., None]
    waves = np.fft.ifft2(spectrum, axes=(0, 1)).real
    picture = 128 + 50 * waves / waves.std() + rng.standard_normal(waves.shape) * 1.5
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def discs(side: int) -> Pixels:
    """Flat art: discs of one colour each."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((side, side))
    picture = np.full((side, side, 3), 240, np.uint8)
    for _ in range(40):
        y, x, radius = rng.integers(0, side), rng.integers(0, side), rng.integers(side // 40, side // 6)
        picture[np.hypot(rows - y, columns - x) < radius] = rng.integers(0, 256, 3)
    return picture


def by_pillow(file: bytes) -> Pixels:
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def size_by_pillow(pixels: Pixels) -> int:
    return len(file_of(Image.fromarray(pixels)))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 2), (2, 1), (1, 301), (301, 1), (3, 3), (7, 5), (64, 64), (97, 131), (255, 257)],
)
@pytest.mark.parametrize("content", [noise, slope, black])
def test_both_readers_see_every_pixel_as_it_was(
    content: Callable[..., Pixels], height: int, width: int, channels: int
) -> None:
    pixels = content(height, width, channels)
    file = write_png(pixels)
    assert np.array_equal(by_pillow(file), pixels)
    assert np.array_equal(read_png(file).pixels, pixels)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([3, 4]),
    strip_bytes=st.integers(1, 400),
    data=st.data(),
)
def test_any_picture_in_any_strips_comes_back_exactly(
    height: int, width: int, channels: int, strip_bytes: int, data: st.DataObject
) -> None:
    # Few values make the ties and the runs that plain noise never has.
    values = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    seed = data.draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).choice(np.array(values, np.uint8), (height, width, channels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "STRIP_BYTES", strip_bytes)
        file = write_png(pixels)
    assert np.array_equal(by_pillow(file), pixels)
    assert np.array_equal(read_png(file).pixels, pixels)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_row_that_is_wider_than_a_strip_is_one(channels: int) -> None:
    pixels = noise(3, png.STRIP_BYTES // channels + 5, channels)
    assert np.array_equal(by_pillow(write_png(pixels)), pixels)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "every other", "read-only"])
def test_the_layout_in_memory_does_not_matter(layout: str) -> None:
    base = noise(30, 34, 4)
    pixels = {
        "transposed": base.transpose(1, 0, 2),
        "reversed": base[::-1, ::-1],
        "every other": base[::2, ::2],
        "read-only": np.frombuffer(base.tobytes(), np.uint8).reshape(base.shape),
    }[layout]
    assert np.array_equal(by_pillow(write_png(pixels)), pixels)


def test_each_of_the_four_filters_is_chosen_where_it_predicts_best() -> None:
    rng = np.random.default_rng(5)
    stripes = np.repeat(rng.integers(0, 256, (8, 1, 3)), 64, axis=1)  # each row one colour: the left predicts
    columns = np.repeat(rng.integers(0, 256, (1, 64, 3)), 8, axis=0)  # each column one colour: the one above does
    grain = np.full((8, 64, 3), 128) + rng.integers(-20, 20, (8, 64, 3))  # a mean of two has half of the noise
    down, across = np.indices((8, 64))
    plane = np.repeat((60 + 9 * down + 2 * across)[..., None], 3, axis=2)  # left + above - corner is the pixel
    plane += rng.integers(0, 2, plane.shape)
    for content, best in ((stripes, SUB), (columns, UP), (grain, AVERAGE), (plane, PAETH)):
        pixels = content.astype(np.uint8)
        file = read_png(write_png(pixels))
        assert np.array_equal(file.pixels, pixels)
        assert best in file.filters[1:]


def test_paeth_predicts_as_the_specification_says_for_all_combinations_of_a_sample() -> None:
    values = np.array([0, 1, 2, 3, 5, 63, 64, 65, 126, 127, 128, 129, 191, 192, 250, 253, 254, 255], np.uint8)
    left, above, corner = (each.ravel() for each in np.meshgrid(values, values, values))
    a, b, c = (each.astype(int) for each in (left, above, corner))
    to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    expected = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    assert np.array_equal(png._paeth(left, above, corner), expected)


@settings(deadline=None, derandomize=True)
@given(parts=st.lists(st.binary(max_size=200), max_size=6), long=st.integers(0, 70_000))
def test_checksums_of_parts_join_to_that_of_the_whole(parts: list[bytes], long: int) -> None:
    parts = [*parts, b"\xff" * long]
    joined = 1
    for part in parts:
        joined = png._joined_adler32(joined, zlib.adler32(part), len(part))
    assert joined == zlib.adler32(b"".join(parts))


def test_the_file_holds_the_three_chunks_that_it_needs() -> None:
    file = read_png(write_png(noise(300, 300, 4)))
    assert file.chunks == ("IHDR", "IDAT", "IEND")


def test_the_file_is_the_same_however_many_threads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo(400)
    files = set()
    for workers in (1, 2, 3, 16):
        monkeypatch.setattr(png, "WORKERS", workers)
        files.add(write_png(pixels))
    assert len(files) == 1


def test_strips_are_compressed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    both_here = threading.Barrier(2)
    deflated = png._deflated

    def meeting(*args: object) -> tuple[bytes, int, int]:
        both_here.wait(LONG_S)
        return deflated(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(png, "WORKERS", 2)
    monkeypatch.setattr(png, "STRIP_BYTES", 32 * 100 * 3)
    monkeypatch.setattr(png, "_deflated", meeting)
    pixels = slope(64, 100, 3)
    assert np.array_equal(by_pillow(write_png(pixels)), pixels)


def test_many_threads_can_write_at_once() -> None:
    pictures = [photo(200) + index for index in range(6)]
    with ThreadPoolExecutor(6) as pool:
        files = list(pool.map(write_png, pictures))
    for file, picture in zip(files, pictures, strict=True):
        assert np.array_equal(by_pillow(file), picture)


def test_a_photo_takes_no_more_bytes_than_pillows_default() -> None:
    pixels = np.dstack((photo(512), np.full((512, 512, 1), 255, np.uint8)))
    assert len(write_png(pixels)) <= 1.01 * size_by_pillow(pixels)


def test_flat_art_takes_at_most_half_as_many_bytes_again() -> None:
    pixels = np.dstack((discs(512), np.full((512, 512, 1), 255, np.uint8)))
    assert len(write_png(pixels)) <= 1.5 * size_by_pillow(pixels)


def test_memory_is_bounded_by_strips_and_not_by_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "WORKERS", 2)
    pixels = black(4096, 2048, 4)
    tracemalloc.start()
    try:
        write_png(pixels)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < pixels.nbytes / 2
