"""Damaged answers, errors and image files end in the package's own errors; `python dev.py fuzz` tries many more."""

from __future__ import annotations

import base64
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dalle2 import image_codec
from dalle2.models import MAX_DETAIL_CHARACTERS, ErrorDetail, ImagesResponse
from tests.pictures import KINDS, SIGNATURE, file_of, noise, png_of_16_bits

# Numbers and words at which parsers stumble.
PIECES = [b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"-1", b"1e999", b"9" * 5000, b"null", b"[]", b'""', b"\\ud800"]
PIECES += [b"[" * 3000, b'{"error":' * 1500, b'{"data":[' * 1500, b"<title>" * 500]

GRADIENT = Image.linear_gradient("L").resize((12, 12)).convert("RGB")
FILES = [file_of(GRADIENT, kind) for kind in ("PNG", "JPEG", "WEBP")]
FILES += [file for file, _ in KINDS.values()]
FILES += [png_of_16_bits(noise(2, 3, channels)) for channels in (1, 2, 3, 4)]
OTHER_FILES = [file_of(GRADIENT, kind) for kind in ("GIF", "TIFF", "BMP")]
ENCODED = base64.b64encode(FILES[0]).decode()
ITEMS = [{"b64_json": ENCODED}, {"url": "https://example.com/a.png"}, {"url": f"data:image/png;base64,{ENCODED}"}]
ANSWERS = [json.dumps({"created": 1, "data": [item, item]}).encode() for item in ITEMS]
ERRORS = [
    b'{"error": {"message": "Unknown parameter", "type": "t", "param": "quality", "code": "c"}}',
    b'{"error": "Forbidden", "message": "No."}',
    b'{"detail": [{"loc": ["body", "n"], "msg": "Field required"}]}',
    b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>",
]


# Anything that JSON can say, with the names and values that mean something here more often than by chance.
WORDS = st.sampled_from(["data", "b64_json", "url", "error", "message", "code", "detail", ENCODED, "data:,", "\ud800"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample of which up to four parts were replaced by nothing, by something else or by a part of another one."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, len(data)))
        other = draw(st.sampled_from(samples))
        part = draw(st.sampled_from([b"", other[start:end], other[start:]]) | st.sampled_from(PIECES) | st.binary())
        data = data[:start] + part + data[draw(st.sampled_from([start, end])) :]
    return data


@given(damaged(ANSWERS) | BODIES)
def test_a_damaged_answer_is_read_or_a_value_error(body: bytes) -> None:
    with suppress(ValueError, RecursionError):
        for picture in ImagesResponse.parse(body).data:
            assert isinstance(picture.b64_json, bytes | None)


@given(damaged(ERRORS + ANSWERS) | BODIES)
def test_a_damaged_error_body_becomes_short_text(body: bytes) -> None:
    detail = ErrorDetail.parse(body)
    for text in (detail.message, detail.type, detail.code, detail.param):
        assert len(text) <= MAX_DETAIL_CHARACTERS and text.isprintable()


@st.composite
def with_other_bytes(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample of which up to four bytes are others."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


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


@given(damaged(FILES + OTHER_FILES) | with_other_bytes(FILES + OTHER_FILES))
def test_a_damaged_image_file_is_decoded_or_an_image_error(file: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for each in (file, with_right_checksums(file)):
            with suppress(image_codec.ImageError):
                decoded = image_codec.decode_images([each])
                assert decoded.shape[0] == 1 and decoded.shape[3] in (3, 4)


@pytest.mark.parametrize(("read", "samples"), [(ImagesResponse.parse, ANSWERS), (ErrorDetail.parse, ERRORS)])
def test_undamaged_samples_are_understood(read: Callable[[bytes], object], samples: list[bytes]) -> None:
    for sample in samples:
        assert read(sample)
    for file in FILES:
        assert image_codec.decode_images([file]).dim() == 4
