"""Damaged answers, errors and image files end in the package's own errors; `python dev.py fuzz` tries many more."""

from __future__ import annotations

import base64
import io
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dalle2 import image_codec
from dalle2.models import ErrorDetail, ImagesResponse

settings.register_profile("few", max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("many", settings.get_profile("few"), max_examples=30_000)
effort = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

# Numbers and words at which parsers stumble.
PIECES = [b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"-1", b"1e999", b"9" * 5000, b"null", b"[]", b'""', b"\\ud800"]
PIECES += [b"[" * 3000, b'{"error":' * 1500, b'{"data":[' * 1500, b"<title>" * 500]


def image_file(kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((12, 12)).convert(mode).save(file, kind)
    return file.getvalue()


FILES = [image_file("PNG", mode) for mode in ("RGB", "RGBA", "L", "P", "1")]
FILES += [image_file(kind, "RGB") for kind in ("JPEG", "WEBP", "GIF", "TIFF", "BMP")]
ENCODED = base64.b64encode(FILES[0]).decode()
ITEMS = [{"b64_json": ENCODED}, {"url": "https://example.com/a.png"}, {"url": f"data:image/png;base64,{ENCODED}"}]
ANSWERS = [json.dumps({"created": 1, "data": [item, item]}).encode() for item in ITEMS]
ERRORS = [
    b'{"error": {"message": "Unknown parameter", "type": "t", "param": "quality", "code": "c"}}',
    b'{"error": "Forbidden", "message": "No."}',
    b'{"detail": [{"loc": ["body", "n"], "msg": "Field required"}]}',
    b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>",
]


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


@effort
@given(damaged(ANSWERS))
def test_a_damaged_answer_is_read_or_a_value_error(body: bytes) -> None:
    with suppress(ValueError, RecursionError):
        assert isinstance(ImagesResponse.parse(body).data, tuple)


@effort
@given(damaged(ERRORS + ANSWERS))
def test_a_damaged_error_body_becomes_short_text(body: bytes) -> None:
    detail = ErrorDetail.parse(body, str)
    assert len(detail.message) <= 400 and detail.message.isprintable()


@effort
@given(damaged(FILES))
def test_a_damaged_image_file_is_decoded_or_an_image_error(file: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with suppress(image_codec.ImageError):
            assert image_codec.decode_images([file]).dim() == 4


@pytest.mark.parametrize(("read", "samples"), [(ImagesResponse.parse, ANSWERS), (ErrorDetail.parse, ERRORS)])
def test_undamaged_samples_are_understood(read: Callable[[bytes], object], samples: list[bytes]) -> None:
    for sample in samples:
        assert read(sample)
    for file in FILES[:7]:
        assert image_codec.decode_images([file]).shape[:3] == (1, 12, 12)
