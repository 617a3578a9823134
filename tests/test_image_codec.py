"""The codec: tensors to PNG files, files to one tensor, every value exact, and what it holds out against."""

from __future__ import annotations

import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dalle2.image_codec import (
    MAX_JPEG_SEGMENTS,
    MAX_PIXELS,
    ImageError,
    decode_images,
    encode_mask_png,
    encode_rgba_png,
    open_image,
)
from tests.pictures import (
    KINDS,
    SIGNATURE,
    as_bytes,
    chunk,
    file_of,
    loaded,
    noise,
    picture,
    pixels_of,
    png_of,
    png_of_16_bits,
    saved,
)

ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


def test_each_of_the_256_values_survives_the_way_out_and_back() -> None:
    file = encode_rgba_png(loaded(ALL_VALUES))
    assert np.array_equal(pixels_of(file)[..., :3], ALL_VALUES[0])
    decoded = decode_images([file])
    assert decoded.dtype == torch.float32 and decoded.is_contiguous()
    assert torch.equal(decoded, loaded(ALL_VALUES))
    assert np.array_equal(saved(decoded), ALL_VALUES)  # ComfyUI's SaveImage truncates


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_rounded_to_the_nearest_value(dtype: torch.dtype) -> None:
    image = loaded(ALL_VALUES).to(dtype)
    expected = np.floor(image.to(torch.float64).numpy() * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(pixels_of(encode_rgba_png(image))[..., :3], expected[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(199.4 / 255, 199), (199.6 / 255, 200), (-0.5, 0), (1.5, 255), (float("inf"), 255), (float("-inf"), 0)],
)
def test_values_are_rounded_and_clamped(value: float, expected: int) -> None:
    file = encode_rgba_png(torch.full((2, 2, 3), value), torch.full((2, 2), value))
    assert pixels_of(file)[1, 1].tolist() == [expected] * 3 + [255 - expected]


@pytest.mark.parametrize(("channels", "alpha"), [(3, 255), (4, 51)])
def test_without_a_mask_alpha_is_the_images_own_or_opaque(channels: int, alpha: int) -> None:
    pixels = pixels_of(encode_rgba_png(torch.full((2, 2, channels), 0.2)))
    assert pixels.shape == (2, 2, 4) and (pixels[..., 3] == alpha).all()


@pytest.mark.parametrize(
    ("encode", "shape", "message"),
    [
        (encode_rgba_png, (5, 5), "One image must be [1,H,W,3] or [1,H,W,4]; this one has the shape [5, 5]"),
        (encode_rgba_png, (2, 4, 6, 3), "this one has the shape [2, 4, 6, 3]"),
        (encode_rgba_png, (1, 4, 6, 0), "this one has the shape [1, 4, 6, 0]"),
        (encode_mask_png, (2, 4, 6), "One mask must be [1,H,W]; this one has the shape [2, 4, 6]"),
    ],
)
def test_what_is_not_one_image_or_mask_is_refused_with_its_shape(
    encode: Callable[[Tensor], bytes], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        encode(torch.zeros(shape))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_pixel_is_decoded_right(name: str) -> None:
    file, expected = KINDS[name]
    assert as_bytes(decode_images([file]))[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_become_8_for_all_values(channels: int) -> None:
    values = np.arange(2**16).reshape(256, 256)
    image = np.stack([np.roll(values, 12345 * channel) for channel in range(channels)], axis=-1)
    expected = image / 257
    if channels <= 2:
        expected = np.concatenate((*[expected[..., :1]] * 3, expected[..., 1:]), axis=-1)
    assert np.abs(as_bytes(decode_images([png_of_16_bits(image)]))[0] - expected).max() <= 1


ORIENTATIONS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.fliplr(np.rot90(stored, -1)),
    6: lambda stored: np.rot90(stored, -1),  # clockwise
    7: lambda stored: np.flipud(np.rot90(stored, -1)),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_as_its_exif_data_say(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = file_of(picture(20, 30, 3), kind, exif=exif)
    assert np.array_equal(as_bytes(decode_images([file]))[0], ORIENTATIONS[orientation](pixels_of(file)))


def test_grey_of_16_bits_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = noise(2, 3, 1).astype(np.uint16) * 257
    upright, turned = (
        decode_images([png_of_16_bits(values, *extra)]) for extra in ([], [chunk(b"eXIf", exif.tobytes()[6:])])
    )
    assert torch.equal(turned[0], torch.rot90(upright[0], -1))


@pytest.mark.parametrize("exif", [b"no EXIF data at all", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_data_leave_an_image_as_it_is(exif: bytes) -> None:
    file = png_of(2, 1, 8, 0, b"\0\1\2", chunk(b"eXIf", exif))
    assert as_bytes(decode_images([file]))[0, 0, :, 0].tolist() == [1, 2]


def test_images_of_other_sizes_get_the_size_of_the_first() -> None:
    files = [file_of(Image.new("RGB", size, (10, 20, 30))) for size in ((8, 6), (80, 60), (3, 5))]
    decoded = decode_images(files)
    assert decoded.shape == (3, 6, 8, 3) and (as_bytes(decoded) == [10, 20, 30]).all()


def test_a_batch_is_in_order_and_has_alpha_where_one_image_has() -> None:
    arrays = [noise(6, 8, channels, seed=seed) for seed, channels in enumerate((3, 4, 3, 4, 3, 3, 3))]
    decoded = as_bytes(decode_images([file_of(Image.fromarray(array)) for array in arrays]))
    assert decoded.shape == (7, 6, 8, 4)
    for array, pixels in zip(arrays, decoded, strict=True):
        assert np.array_equal(pixels[..., : array.shape[2]], array)
        assert array.shape[2] == 4 or (pixels[..., 3] == 255).all()


def test_no_images_at_all_is_an_error() -> None:
    with pytest.raises(ImageError, match="no image"):
        decode_images([])


JPEG = file_of(picture(64, 64, 3), "JPEG")
PROGRESSIVE = file_of(picture(64, 64, 3), "JPEG", progressive=True)
WEBP = KINDS["animated WebP"][0]  # whose frames may be smaller than the whole
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
SEGMENT = b"\xff\xe0\x00\x02"
RESTART = b"\xff\xd0" + SEGMENT * (0xFFE0 // 4)  # as long as if these segments were the length and body of one
MIB_16 = 2**24


def exif_segments(count: int) -> bytes:
    """16 MiB of EXIF data, or as much as fits into so many segments."""
    size = min(MIB_16 // count, 0xFFFF)
    return (b"\xff\xe1" + struct.pack(">H", size - 2) + b"Exif\0\0" + bytes(size - 10)) * count


def in_jpeg(segments: bytes) -> bytes:
    return JPEG[:2] + segments + JPEG[2:]


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


NOT_IMAGES = {
    "nothing": b"",
    "text": b"The picture could not be drawn.",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "GIF": file_of(picture(4, 4), "GIF"),
    "TIFF": file_of(picture(4, 4, 3), "TIFF"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "header only": header(4, 4),
    "no pixels": header(0, 0) + chunk(b"IEND", b""),
    "half of the pixels": png_of(4096, 4096, 8, 2, bytes(2**24)),
    "unknown depth": png_of(4, 4, 3, 2, b"\0"),
    "unknown filter": png_of(2, 1, 8, 0, b"\7\0\0"),
    "PNG of 100000 x 100000": png_of(100_000, 100_000, 8, 2, b"\0"),
    "PNG of one row too many": png_of(4096, MAX_PIXELS // 4096 + 1, 8, 2, b"\0"),
    "JPEG of 65280 x 65280": JPEG.replace(b"\x00\x40\x00\x40\x03", b"\xff\x00\xff\x00\x03"),
    "WebP of 16000 x 16000": WEBP[:24] + (15_999).to_bytes(3, "little") * 2 + WEBP[30:],
    "PNG of empty chunks": png_of(1, 1, 8, 0, b"\0\7", chunk(b"teSt", b"") * (MIB_16 // 12)),
    "PNG of empty pixel chunks": header(64, 64) + chunk(b"IDAT", b"") * (MIB_16 // 12),
    "JPEG of empty segments": in_jpeg(SEGMENT * (MIB_16 // 4)),
    "JPEG of segments without a length": in_jpeg(b"\xff\xe1\0\0" * (MIB_16 // 4)),
    "JPEG of hidden segments": in_jpeg(RESTART * 128),
    "JPEG of restarts": in_jpeg(b"\xff\xd0" * (MIB_16 // 2)),
    "JPEG of padding": in_jpeg(b"\xff" * MIB_16),
    "JPEG of zeros": in_jpeg(bytes(MIB_16)),
    "JPEG of EXIF data": in_jpeg(exif_segments(10_000)),
    "JPEG of a thousand scans": PROGRESSIVE[:-2] + LAST_SCAN * 1000 + PROGRESSIVE[-2:],
}
BOMB = zlib.compress(b"\0" * 2**20, 9)
TEXTS = b"".join(
    chunk(b"iTXt", b"%d\0\1\0\0\0" % index + zlib.compress(b"a" * (2**20 - 8) + "\N{DROMEDARY CAMEL}".encode(), 9))
    for index in range(64)
)
RIGHT_ALL_THE_SAME = {
    "pixels behind the last": png_of(1, 1, 8, 0, b"\0\x07" + bytes(2**24)),
    "rubbish behind the end": png_of(1, 1, 8, 0, b"\0\x07") + bytes(1000),
    "text bomb": png_of(1, 1, 8, 0, b"\0\x07", chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**24, 9))),
    "texts of four bytes a letter": png_of(1, 1, 8, 0, b"\0\x07", TEXTS),
    "many colour profiles": png_of(1, 1, 8, 0, b"\0\x07", chunk(b"iCCP", b"a\0\0" + BOMB) * 9000),
    "EXIF data in many pieces": JPEG[:2]
    + exif_segments(MAX_JPEG_SEGMENTS - 20)
    + file_of(Image.new("L", (1, 1), 7), "JPEG")[2:],
}


@pytest.fixture
def little_effort() -> Iterator[None]:
    """Nothing that Python makes in the test takes much memory, and no step of it much time."""
    began_s = time.process_time()
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 80 * 2**20
    assert time.process_time() - began_s < 5


@pytest.mark.usefixtures("little_effort")
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_is_an_image_error_before_it_takes_effort(name: str) -> None:
    with pytest.raises(ImageError) as raised:
        decode_images([NOT_IMAGES[name]])
    assert len(str(raised.value)) < 200


@pytest.mark.usefixtures("little_effort")
@pytest.mark.parametrize("name", RIGHT_ALL_THE_SAME)
def test_what_is_no_part_of_the_pixels_is_left_aside(name: str) -> None:
    assert as_bytes(decode_images([RIGHT_ALL_THE_SAME[name]])).ravel().tolist() == [7, 7, 7]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_cut_off_anywhere_is_right_or_an_image_error(kind: str) -> None:
    file = file_of(picture(16, 16, 3), kind)
    whole = decode_images([file])
    for length in range(len(file)):
        try:
            decoded = decode_images([file[:length]])
        except ImageError:
            continue
        assert torch.equal(decoded, whole), f"{length} of {len(file)} bytes"


def test_a_lack_of_memory_is_not_taken_for_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        open_image(JPEG)
