"""OpenAI's own strictness, as it publishes it, about what the nodes send: fields, sizes and files."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any

from PIL import Image

from .job import Flavour, parse_size, refuse
from .wire import FilePart, Refusal, RequestRecord

# From the oldest to the newest.
MODELS = (
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2.5-flare",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.6-flare",
    "gpt-image-2.6-sunburst",
)
MODEL_MISSING = Refusal(400, "you must provide a model parameter", "model", "missing_required_parameter")
FIELDS = {"model", "prompt", "n", "size", "quality", "user"}
FILES = {"image", "image[]", "mask"}
QUALITIES = ("low", "medium", "high", "auto")
SIZES_OF_GPT_IMAGE_1 = ("1024x1024", "1024x1536", "1536x1024", "auto")
MAX_PROMPT_CHARACTERS = 32_000
MAX_PICTURES = 10
MAX_MASK_BYTES = 4 * 1024**2


class OpenAI(Flavour):
    """OpenAI itself: every field is checked, and one that its models do not know is refused."""

    def check(self, request: RequestRecord, models: Collection[str], *, editing: bool) -> None:
        model = request.fields.get("model")
        if not model:
            refuse(MODEL_MISSING)
        if model not in models:
            refuse(self.model_unknown, model)
        _check_fields(request.fields, editing=editing)
        for part in request.files:
            if part.field not in FILES or not editing:
                raise _wrong(part.field, "unknown_parameter", f"Unknown parameter: '{part.field}'.")
        if editing:
            _check_files(request)


def _check_fields(fields: dict[str, Any], *, editing: bool) -> None:
    for name, value in fields.items():
        if name not in FIELDS:
            raise _wrong(name, "unknown_parameter", f"Unknown parameter: '{name}'.")
        # The form of an edit has nothing but texts.
        if type(value) is not (int if name == "n" and not editing else str):
            raise _wrong(name, "invalid_type", f"Invalid type for '{name}'.")
    if not 1 <= len(fields.get("prompt", "").strip()) <= MAX_PROMPT_CHARACTERS:
        raise _wrong("prompt", "invalid_value", f"Invalid 'prompt': expected 1 to {MAX_PROMPT_CHARACTERS} characters.")
    count = str(fields.get("n", 1))
    if not count.isdecimal() or not 1 <= int(count) <= MAX_PICTURES:
        raise _wrong("n", "invalid_value", f"Invalid 'n': expected 1 to {MAX_PICTURES}, but got {count}.")
    quality = fields.get("quality", "auto")
    if quality not in QUALITIES:
        raise _wrong("quality", "invalid_value", f"Invalid value: '{quality}'. Supported values are: {QUALITIES}.")
    _check_size(fields["model"], fields.get("size", "auto"))


def _check_size(model: str, size: str) -> None:
    if model.startswith("gpt-image-1"):
        if size not in SIZES_OF_GPT_IMAGE_1:
            supported = f"Supported values are: {SIZES_OF_GPT_IMAGE_1}."
            raise _wrong("size", "invalid_value", f"Invalid value: '{size}'. {supported}")
        return
    width, height = parse_size("1024x1024" if size == "auto" else size) or (0, 0)
    is_known = width % 16 == 0 and height % 16 == 0 and max(width, height) <= 3 * min(width, height)
    if not is_known or not 655_360 <= width * height <= 8_294_400:
        reason = "It takes sides divisible by 16, at most 3:1, and 655360 to 8294400 pixels"
        raise _wrong("size", "invalid_value", f"Invalid size '{size}'. {reason}.")


def _check_files(request: RequestRecord) -> None:
    image, mask = request.find("image", "image[]"), request.find("mask")
    if image is None:
        raise _wrong("image", "missing_required_parameter", "Missing required parameter: 'image'.")
    picture = _opened(image)
    if mask is None:
        return
    drawn = _opened(mask)
    if drawn.format != "PNG" or drawn.mode != "RGBA" or len(mask.data) >= MAX_MASK_BYTES:
        raise _wrong("mask", "invalid_mask_format", "Invalid mask: it must be less than 4 MB, PNG and RGBA.")
    if drawn.size != picture.size:
        raise _wrong("mask", "invalid_mask_format", "Invalid mask: its size does not match that of the image.")


def _opened(part: FilePart) -> Image.Image:
    name = part.field
    if part.filename is None or part.content_type not in ("image/png", "image/jpeg", "image/webp"):
        message = f"Invalid file '{name}': unsupported mimetype ('{part.content_type}')."
        raise _wrong(name, "unsupported_file_mimetype", message)
    try:
        return Image.open(io.BytesIO(part.data))
    except (OSError, ValueError, Image.DecompressionBombError) as err:
        raise _wrong(name, "invalid_image_file", f"Invalid image file or mode for image '{name}'.") from err


def _wrong(param: str, code: str, message: str) -> Refusal:
    return Refusal(400, message, param, code)
