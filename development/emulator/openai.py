"""OpenAI's own strictness, as it publishes it, about what the nodes send: fields, sizes and files."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from .job import IMAGE, Flavour, parse_size, refuse
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
SIZES_OF_GPT_IMAGE_1 = ("1024x1024", "1024x1536", "1536x1024", "auto")
MAX_MASK_BYTES = 4 * 1024**2


class Fields(BaseModel, extra="forbid"):
    """What the fields of a request may be."""

    model: str
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=32_000)]
    n: int = Field(1, ge=1, le=10)
    size: str = "auto"
    quality: Literal["low", "medium", "high", "auto"] = "auto"
    user: str = ""


class OpenAI(Flavour):
    """OpenAI itself: every field is checked, and one that its models do not know is refused."""

    def check(self, request: RequestRecord, models: Collection[str], *, editing: bool) -> None:
        model = request.fields.get("model")
        if not model:
            refuse(MODEL_MISSING)
        if model not in models:
            refuse(self.model_unknown, model)
        try:
            # The form of an edit has nothing but texts.
            fields = Fields.model_validate(request.fields, strict=not editing)
        except ValidationError as err:
            raise _wrong_field(err) from err
        _check_size(fields.model, fields.size)
        if editing:
            _check_files(request)


def _wrong_field(error: ValidationError) -> Refusal:
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return Refusal(400, f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    return Refusal(400, f"Invalid '{name}': {first['msg']}.", name, "invalid_value")


def _check_size(model: str, size: str) -> None:
    if model.startswith("gpt-image-1"):
        if size not in SIZES_OF_GPT_IMAGE_1:
            supported = f"Supported values are: {SIZES_OF_GPT_IMAGE_1}."
            raise Refusal(400, f"Invalid value: '{size}'. {supported}", "size", "invalid_value")
        return
    width, height = parse_size("1024x1024" if size == "auto" else size) or (0, 0)
    is_known = width % 16 == 0 and height % 16 == 0 and max(width, height) <= 3 * min(width, height)
    if not is_known or not 655_360 <= width * height <= 8_294_400:
        reason = "It takes sides divisible by 16, at most 3:1, and 655360 to 8294400 pixels"
        raise Refusal(400, f"Invalid size '{size}'. {reason}.", "size", "invalid_value")


def _check_files(request: RequestRecord) -> None:
    if len(request.files) != 2 or not request.find(*IMAGE) or not request.find("mask"):
        raise Refusal(400, "The files of an edit are 'image' and 'mask'.", "image", "invalid_value")
    image, mask = _opened(request.file(*IMAGE)), _opened(request.file("mask"))
    if mask.format != "PNG" or mask.mode != "RGBA" or len(request.file("mask").data) >= MAX_MASK_BYTES:
        raise Refusal(400, "Invalid mask: it must be less than 4 MB, PNG and RGBA.", "mask", "invalid_mask_format")
    if mask.size != image.size:
        message = "Invalid mask: its size does not match that of the image."
        raise Refusal(400, message, "mask", "invalid_mask_format")


def _opened(part: FilePart) -> Image.Image:
    try:
        return Image.open(io.BytesIO(part.data), formats=["PNG", "JPEG", "WEBP"])
    except (OSError, ValueError, Image.DecompressionBombError) as err:
        message = f"Invalid image file or mode for image '{part.field}'."
        raise Refusal(400, message, part.field, "invalid_image_file") from err
