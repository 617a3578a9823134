"""A second reader of PNG files for the tests: slow, strict, and written from the specification alone.

https://www.w3.org/TR/png-3/, chapters 5 (chunks), 9 (filters) and 10 (compression). It reads 8 bits a channel, RGB and
RGBA, not interlaced, which is what the package writes, and shares no line with the package or with Pillow.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANNELS = {2: 3, 6: 4}


@dataclass(frozen=True)
class PngFile:
    """What a file holds: the pixels `[H,W,C]`, the filter of each row, and the names of its chunks."""

    pixels: NDArray[np.uint8]
    filters: tuple[int, ...]
    chunks: tuple[str, ...]


def read_png(file: bytes) -> PngFile:
    """Read a file; every checksum and every length in it has to be right."""
    chunks = _chunks(file)
    names = tuple(name for name, _ in chunks)
    assert names[0] == "IHDR" and names[-1] == "IEND" and set(names[1:-1]) == {"IDAT"}
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, compression, filtering, interlace) == (8, 0, 0, 0)
    channels = CHANNELS[colour]
    data = _inflated(b"".join(body for name, body in chunks if name == "IDAT"))
    assert len(data) == height * (1 + width * channels)
    rows = [data[start : start + 1 + width * channels] for start in range(0, len(data), 1 + width * channels)]
    pixels = np.array(_unfiltered(rows, channels), np.uint8).reshape(height, width, channels)
    return PngFile(pixels, tuple(row[0] for row in rows), names)


def _chunks(file: bytes) -> list[tuple[str, bytes]]:
    assert file[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, at = [], 8
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        name, body = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", file, at + 8 + length)
        assert len(body) == length and checksum == zlib.crc32(name + body)
        chunks.append((name.decode("ascii"), body))
        at += 12 + length
    return chunks


def _inflated(stream: bytes) -> bytes:
    inflate = zlib.decompressobj()  # checks the Adler-32 at the end of the stream
    data = inflate.decompress(stream)
    assert inflate.eof and not inflate.unused_data
    return data


def _unfiltered(rows: list[bytes], channels: int) -> list[list[int]]:
    above = [0] * (len(rows[0]) - 1)
    result = []
    for row in rows:
        current: list[int] = []
        for i, value in enumerate(row[1:]):
            left = current[i - channels] if i >= channels else 0
            corner = above[i - channels] if i >= channels else 0
            current.append((value + _predicted(row[0], left, above[i], corner)) % 256)
        result.append(current)
        above = current
    return result


def _predicted(filter_type: int, a: int, b: int, c: int) -> int:
    if filter_type == 4:
        p = a + b - c
        distances = abs(p - a), abs(p - b), abs(p - c)
        return (a, b, c)[distances.index(min(distances))]
    return (0, a, b, (a + b) // 2)[filter_type]
