"""What the codec holds out against, in little memory: bytes that are no picture, damage, traps, large images."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle2.image_codec import MAX_DECODED_PIXELS, PictureBatch, PictureError, decode_images
from development.package import ROOT
from tests.pictures import KINDS, SIGNATURE, as_bytes, chunk, file_of, picture, png_of

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
    "colour profile bomb": png_of(1, 1, 8, 0, b"\0\x07", chunk(b"iCCP", b"a\0\0" + BOMB)),
    "short colour profile": png_of(1, 1, 8, 0, b"\0\0")[:-12] + chunk(b"iCCP", b"a"),
}
SCANS = file_of(picture(64, 64, 3), "JPEG", progressive=True)
LAST_SCAN = SCANS[SCANS.rindex(b"\xff\xda") : -2]
NOT_PICTURES["JPEG of a thousand passes"] = SCANS[:-2] + LAST_SCAN * 1000 + SCANS[-2:]
RIGHT_ALL_THE_SAME = {
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
def test_what_comes_after_a_picture_is_left_aside(name: str) -> None:
    assert as_bytes(decode_images([RIGHT_ALL_THE_SAME[name]])).ravel().tolist() == [7, 7, 7]


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
@given(data=st.data(), name=st.sampled_from(sorted(KINDS)))
def test_a_damaged_picture_is_decoded_or_a_picture_error(data: st.DataObject, name: str) -> None:
    file = bytearray(KINDS[name][0])
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
import pickle, resource, sys, torch
from pathlib import Path
from development.package import load_package
load_package()
from dalle2.image_codec import PictureError, decode_images, encode_rgba_png

def peak_mib():
    status = Path("/proc/self/status")
    if status.exists():  # Linux starts ru_maxrss at the peak of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

encode_rgba_png(torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64))
before = peak_mib()
for file in pickle.load(sys.stdin.buffer):
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
    files = pickle.dumps([*NOT_PICTURES.values(), *RIGHT_ALL_THE_SAME.values()])
    command = [sys.executable, "-c", MEASURED]
    done = subprocess.run(command, cwd=ROOT, input=files, capture_output=True, check=True)
    return [float(line) for line in done.stdout.split()]


on_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such measure; memory is the same there")


@on_unix
def test_hostile_pictures_take_little_memory(peaks_mib: list[float]) -> None:
    assert peaks_mib[0] < 64


@on_unix
def test_a_large_image_is_scaled_down_before_it_is_converted(peaks_mib: list[float]) -> None:
    assert peaks_mib[1] < 100, "a copy of the image has 192 MiB"
