"""What OpenAI takes, as strictly as it publishes it: the fields, sizes and files of each family of models."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from .records import FilePart
from .wire import Call, Refusal

MEGABYTE = 1024 * 1024
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
GPT_CHOICES = {
    "quality": ("low", "medium", "high", "auto"),
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "output_format": ("png", "jpeg", "webp"),
}
HOW = ("url", "b64_json")
DALLE_3_CHOICES = {"quality": ("standard", "hd"), "style": ("natural", "vivid"), "response_format": HOW}


@dataclass(frozen=True)
class Rules:
    """What one family takes: sizes (None: a range), `choices` of a field beside the common ones, limits."""

    sizes: tuple[str, ...] | None
    max_prompt: int
    choices: Mapping[str, tuple[str, ...]]
    max_n: int = 10


FREE_SIZES = Rules(None, 32_000, GPT_CHOICES)
FIXED_SIZES = Rules(("1024x1024", "1024x1536", "1536x1024", "auto"), 32_000, GPT_CHOICES)
DALLE_3 = Rules(("1024x1024", "1024x1792", "1792x1024"), 4000, DALLE_3_CHOICES, max_n=1)
DALLE_2 = Rules(("256x256", "512x512", "1024x1024"), 1000, {"response_format": HOW})
FAMILIES = {"dall-e-2": DALLE_2, "dall-e-3": DALLE_3, "gpt-image-1": FIXED_SIZES}


def check(call: Call, model: str, *, editing: bool) -> None:
    """Raise Refusal, with the documented error, for a request that a model refuses."""
    rules = next((rules for name, rules in FAMILIES.items() if model.startswith(name)), FREE_SIZES)
    if editing and rules is DALLE_3:
        raise _wrong("model", "invalid_value", "Value must be 'dall-e-2'.")
    files = {"image", "image[]", "mask"} if editing else set()
    for name in [*call.fields, *(part.field for part in call.files)]:
        if name not in {"model", "prompt", "n", "size", "user", *rules.choices, *files}:
            raise _wrong(name, "unknown_parameter", f"Unknown parameter: '{name}'.")
    for name, value in call.fields.items():
        if name in files or (name != "n" and not isinstance(value, str)):
            raise _wrong(name, "invalid_type", f"Invalid type for '{name}'.")
    _check_prompt(call.fields.get("prompt", ""), rules)
    _check_count(call, rules)
    _check_size(call.fields.get("size", "1024x1024"), rules)
    for name, allowed in rules.choices.items():
        _check_choice(name, call.fields.get(name, allowed[0]), allowed)
    if editing:
        _check_files(call, small=rules is DALLE_2)


def _check_prompt(prompt: str, rules: Rules) -> None:
    if not prompt.strip():
        raise _wrong("prompt", "empty_string", "Invalid 'prompt': empty string.")
    if len(prompt) > rules.max_prompt:
        message = f"Invalid 'prompt': string too long. Expected a string with maximum length {rules.max_prompt}."
        raise _wrong("prompt", "string_above_max_length", message)


def _check_count(call: Call, rules: Rules) -> None:
    n = call.fields.get("n", 1)
    if call.content_type == "multipart/form-data" and re.fullmatch("[0-9]{1,9}", str(n)):
        n = int(n)
    if type(n) is not int:
        raise _wrong("n", "invalid_type", "Invalid type for 'n': expected an integer.")
    if not 1 <= n <= rules.max_n:
        side = "below_minimum" if n < 1 else "above_maximum"
        raise _wrong("n", f"integer_{side}_value", f"Invalid 'n': expected 1 to {rules.max_n}, but got {n}.")


def _check_size(size: str, rules: Rules) -> None:
    if rules.sizes is not None:
        _check_choice("size", size, rules.sizes)
    elif size != "auto":
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
        width, height = (int(match[1]), int(match[2])) if match else (1, 1)
        if width % 16 or height % 16:
            raise _wrong("size", "invalid_value", f"Invalid size '{size}'. Both sides must be divisible by 16.")
        if max(width, height) > 3 * min(width, height):
            raise _wrong("size", "invalid_value", f"Invalid size '{size}'. The aspect ratio must not exceed 3:1.")
        if not 655_360 <= width * height <= 8_294_400:
            raise _wrong("size", "invalid_value", f"Invalid size '{size}'. It must have 655360 to 8294400 pixels.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(f"'{item}'" for item in allowed)
        raise _wrong(name, "invalid_value", f"Invalid value: '{value}'. Supported values are: {names}.")


def _check_files(call: Call, *, small: bool) -> None:
    names = [part.field for part in call.files]
    if "image" in names and "image[]" in names:
        raise _wrong("image", "invalid_value", "Send either 'image' or 'image[]', not both.")
    if names.count("image") > 1 or names.count("mask") > 1:
        raise _wrong("image", "duplicate_parameter", "Duplicate parameter.")
    image, mask = call.file("image", "image[]"), call.file("mask")
    if image is None:
        raise _wrong("image", "missing_required_parameter", "Missing required parameter: 'image'.")
    size = _check_file(image, small=small)
    if small and size[0] != size[1]:
        raise _wrong("image", "invalid_image", "Uploaded image must be square.")
    if mask is not None and _check_file(mask, small=True) != size:
        raise _wrong("mask", "invalid_mask_format", "Invalid mask: its size does not match that of the image.")


def _check_file(part: FilePart, *, small: bool) -> tuple[int, int]:
    """Return the size of a picture; a `small` one is a PNG with alpha of less than 4 MB."""
    name, limit = part.field, 4 * MEGABYTE if small else 50 * MEGABYTE
    if part.filename is None or part.content_type not in MEDIA_TYPES:
        message = f"Invalid file '{name}': unsupported mimetype ('{part.content_type}')."
        raise _wrong(name, "unsupported_file_mimetype", message)
    try:
        with Image.open(io.BytesIO(part.data)) as picture:
            is_right = not small or (picture.format == "PNG" and picture.mode in ("RGBA", "LA"))
            size = picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as err:
        raise _wrong(name, "invalid_image_file", f"Invalid image file or mode for image '{name}'.") from err
    if not is_right or len(part.data) >= limit:
        message = f"Invalid file '{name}': it must be less than {limit // MEGABYTE} MB{', PNG and RGBA' * small}."
        raise _wrong(name, f"invalid_{name}_format", message)
    return size


def _wrong(param: str, code: str, message: str) -> Refusal:
    return Refusal(400, message, param, code)
