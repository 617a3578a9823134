"""What a request may contain, for each generation of models, and the sizes that they draw.

A size check takes the text of `size` and returns (width, height), or None where the server chooses.
It raises Refusal for a size that the model cannot draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import Refusal

Size = tuple[int, int]

MEGABYTE = 1024 * 1024
MAX_FILE_BYTES = 50 * MEGABYTE
MAX_SMALL_PNG_BYTES = 4 * MEGABYTE


@dataclass(frozen=True)
class Rules:
    """The fields, sizes and limits of one generation of models; `fields` None lets unknown ones pass."""

    check_size: Callable[[str], Size | None]
    max_prompt: int
    fields: frozenset[str] | None = None
    edit_fields: frozenset[str] | None = None
    qualities: tuple[str, ...] = ("low", "medium", "high", "auto")
    classic_files: bool = False
    chooses_format: bool = False


def free_size(text: str) -> Size | None:
    """Sizes of gpt-image-2 and its successors: any multiple of 16 within a range of shapes and areas."""
    if text == "auto":
        return None
    width, height = _parse(text)
    if width % 16 or height % 16:
        raise _bad_size(f"Invalid size '{text}'. Width and height must both be divisible by 16.")
    if max(width, height) > 3 * min(width, height):
        raise _bad_size(f"Invalid size '{text}'. The aspect ratio must not exceed 3:1.")
    if not 655_360 <= width * height <= 8_294_400 or max(width, height) > 3840:
        raise _bad_size(
            f"Invalid size '{text}'. The image must have between 655360 and 8294400 pixels, "
            "and no side longer than 3840."
        )
    return width, height


def _listed(*sizes: str) -> Callable[[str], Size | None]:
    def check(text: str) -> Size | None:
        if text not in sizes:
            names = ", ".join(f"'{size}'" for size in sizes)
            raise _bad_size(f"Invalid value: '{text}'. Supported values are: {names}.")
        return None if text == "auto" else _parse(text)

    return check


def any_size(text: str) -> Size | None:
    """Sizes of a server that draws what it is told, within reason."""
    if text == "auto":
        return None
    width, height = _parse(text)
    if not (64 <= width <= 4096 and 64 <= height <= 4096):
        raise _bad_size(f"Invalid size '{text}'. Each side must be between 64 and 4096.")
    return width, height


def _parse(text: str) -> Size:
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise _bad_size(f"Invalid size format: '{text}'. Expected WIDTHxHEIGHT, such as 1024x1024.")
    return int(match[1]), int(match[2])


def _bad_size(message: str) -> Refusal:
    return Refusal(400, message, param="size", code="invalid_value")


_CORE = frozenset({"model", "prompt", "n", "size", "user"})
_GPT = _CORE | {
    "quality",
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "partial_images",
    "stream",
}

FREE_SIZES = Rules(
    check_size=free_size,
    max_prompt=32_000,
    fields=_GPT,
    edit_fields=_GPT | {"input_fidelity"},
)
FIXED_SIZES = Rules(
    check_size=_listed("1024x1024", "1024x1536", "1536x1024", "auto"),
    max_prompt=32_000,
    fields=_GPT,
    edit_fields=_GPT | {"input_fidelity"},
)
DALLE_2 = Rules(
    check_size=_listed("256x256", "512x512", "1024x1024"),
    max_prompt=1000,
    fields=_CORE | {"response_format"},
    edit_fields=_CORE | {"response_format"},
    classic_files=True,
    chooses_format=True,
)
LENIENT = Rules(check_size=any_size, max_prompt=32_000, chooses_format=True)
