"""`python dev.py fuzz`: mutated answers, errors and pictures, none of which may end in anything but our own errors.

What a server sends is taken apart in three places: the parser of answers, the parser of errors, and the codec. Each is
fed with what is right at first and then cut, swollen, shuffled and spliced; the same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from development.package import load_package

load_package()

from dalle2.api_client import pictures_in  # noqa: E402 (the package is loaded under its name first)
from dalle2.errors import StatusError  # noqa: E402
from dalle2.image_codec import PictureBatch, PictureError, decode_images  # noqa: E402
from dalle2.models import ErrorDetail  # noqa: E402

COUNT = 100_000
SIDE_PX = 12
MAX_BYTES = 100_000
# Numbers and words at which parsers stumble.
EDGES = [b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"-1", b"1e999", b"9" * 400, b"NaN"]
TOKENS = [b"null", b"true", b"[]", b"{}", b'""', b'"data"', b'"url"', b'"b64_json"', b'"error"', b"\\ud800", b"\\u0000"]
NESTING = [b"[" * 3000, b'{"error":' * 1500, b'{"data":[' * 1500, b"<title>" * 500]


@dataclass(frozen=True)
class Target:
    """One thing to feed. `feed` tells whether it took the input, and raises nothing."""

    name: str
    samples: Sequence[bytes]
    feed: Callable[[bytes], bool]


class Crash(Exception):
    """An input ended in an error that is none of ours; the message says how to get it again."""


def picture_files() -> list[bytes]:
    """Small pictures of every kind that the codec reads, and some of none."""
    files = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        for mode in ("RGB", "RGBA", "L", "P", "1", "I;16"):
            picture = Image.linear_gradient("L").resize((SIDE_PX, SIDE_PX)).convert("RGB")
            file = io.BytesIO()
            try:
                picture.convert("L" if mode == "I;16" else mode).convert(mode).save(file, kind)
            except (OSError, ValueError, KeyError):
                continue  # not every format has every mode
            files.append(file.getvalue())
    return files


def answers() -> list[bytes]:
    """Answers as servers send them."""
    encoded = base64.b64encode(picture_files()[0]).decode()
    items: list[dict[str, object]] = [
        {"b64_json": encoded},
        {"url": "https://example.com/a.png"},
        {"url": f"data:image/png;base64,{encoded}", "revised_prompt": "a, b"},
        {"b64_json": "\n".join(encoded), "url": None},
    ]
    return [json.dumps({"created": 1, "data": [item] * 2, "usage": {"total_tokens": 1}}).encode() for item in items]


def error_bodies() -> list[bytes]:
    """Errors as servers word them."""
    bodies: list[object] = [
        {"error": {"message": "Unknown parameter: 'quality'.", "type": "t", "param": "quality", "code": "c"}},
        {"error": "Forbidden", "message": "No."},
        {"error": "No."},
        {"detail": [{"loc": ["body", "n"], "msg": "Field required"}]},
    ]
    page = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
    return [*(json.dumps(body).encode() for body in bodies), page, b"404 page not found"]


def feed_answer(data: bytes) -> bool:
    return pictures_in(data) is not None


def feed_error(data: bytes) -> bool:
    return bool(str(StatusError(len(data) % 600, ErrorDetail.parse(data))))


def feed_codec(data: bytes) -> bool:
    try:
        PictureBatch(1, SIDE_PX, SIDE_PX).put(0, data)
        decode_images([data])
    except PictureError:
        return False
    return True


def targets() -> list[Target]:
    """Everything that is fed."""
    return [
        Target("answers", answers(), feed_answer),
        Target("errors", error_bodies(), feed_error),
        Target("pictures", picture_files(), feed_codec),
    ]


def mutated(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """The data after one to four accidents."""
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.randint(0, len(data)) for _ in range(2))
        accident = chance.randrange(7)
        if accident == 0:
            data = data[:end]
        elif accident == 1:
            data = data[:start] + data[end:]
        elif accident == 2:
            data = data[:end] + data[start:]
        elif accident == 3:
            data = data[:start] + chance.choice([*EDGES, *TOKENS]) + data[start:]
        elif accident == 4:
            data = flipped(data, chance)
        elif accident == 5:
            data = data[:start] + chance.choice(others)[start:]
        elif chance.random() < 0.05:
            data = data[:start] + chance.choice(NESTING) + data[end:]
    return data[:MAX_BYTES]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The data with some of its bits turned over."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def fuzz(count: int = COUNT, seed: int = 0) -> Counter[tuple[str, bool]]:
    """Feed `count` inputs; how many each target took and refused. Raises Crash."""
    everything = targets()
    figures: Counter[tuple[str, bool]] = Counter()
    for number in range(count):
        target = everything[number % len(everything)]
        chance = random.Random(f"{seed} {number}")  # noqa: S311 (inputs that repeat, not a secret)
        data = mutated(chance.choice(target.samples), target.samples, chance)
        try:
            figures[target.name, target.feed(data)] += 1
        except Exception as err:
            raise Crash(f"input {number} of seed {seed} ({target.name}): {err!r}\n{data[:300]!r}") from err
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="how many inputs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which inputs (%(default)s)")
    options = parser.parse_args()
    started_s = time.monotonic()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        figures = fuzz(options.count, options.seed)
    except Crash as crash:
        print(f"CRASH at {crash}", file=sys.stderr)
        raise
    for target in targets():
        taken, refused = figures[target.name, True], figures[target.name, False]
        print(f"{target.name:<10} {taken + refused:>7} inputs: {taken} understood, {refused} refused, none crashed")
    print(f"{figures.total()} inputs in {time.monotonic() - started_s:.0f} s, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
