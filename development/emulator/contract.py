"""What OpenAI takes, as strictly as it publishes it: the fields, sizes and files of each family of models."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .records import FilePart
from .wire import Call, Refusal

MEGABYTE = 1024 * 1024
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")


@dataclass(frozen=True)
class Rules:
    """What one family takes: sizes (None: a range), `choices` of a field beside the common ones, limits."""

    sizes: tuple[str, ...] | None
    max_prompt: int
    choices: Mapping[str, tuple[str, ...]]
    max_n: int = 10


FREE_SIZES = Rules(
    sizes=None,
    max_prompt=32_000,
    choices={
        "quality": ("low", "medium", "high", "auto"),
        "background": ("transparent", "opaque", "auto"),
        "moderation": ("low", "auto"),
        "output_format": ("png", "jpeg", "webp"),
    },
)
FIXED_SIZES = Rules(("1024x1024", "1024x1536", "1536x1024", "auto"), FREE_SIZES.max_prompt, FREE_SIZES.choices)
DALLE_3 = Rules(
    sizes=("1024x1024", "1024x1792", "1792x1024"),
    max_prompt=4000,
    choices={"quality": ("standard", "hd"), "style": ("natural", "vivid"), "response_format": ("url", "b64_json")},
    max_n=1,
)
DALLE_2 = Rules(
    sizes=("256x256", "512x512", "1024x1024"), max_prompt=1000, choices={"response_format": ("url", "b64_json")}
)


def rules_for(model: str) -> Rules:
    """Return the rules of the family that a model belongs to."""
    families = {"dall-e-2": DALLE_2, "dall-e-3": DALLE_3, "gpt-image-1": FIXED_SIZES}
    return next((rules for name, rules in families.items() if model.startswith(name)), FREE_SIZES)


def check(call: Call, rules: Rules, *, editing: bool) -> None:
    """Raise Refusal, with the documented error, for a request that a model with these rules refuses."""
    if editing and rules is DALLE_3:
        raise Refusal(400, "Value must be 'dall-e-2'.", "model", "invalid_value")
    known = {"model", "prompt", "n", "size", "user", *rules.choices}
    files = {"image", "image[]", "mask"} if editing else set()
    for name in [*call.fields, *(part.field for part in call.files)]:
        if name not in known | files:
            raise Refusal(400, f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    for name, value in call.fields.items():
        if name in files or (name != "n" and not isinstance(value, str)):
            raise _wrong_type(name, "a file" if name in files else "a string")
    _check_prompt(call.fields.get("prompt"), rules)
    _check_count(call, rules)
    _check_size(call.fields.get("size", "1024x1024"), rules)
    for name, allowed in rules.choices.items():
        _one_of(name, call.fields.get(name, allowed[0]), allowed)
    if editing:
        _check_files(call, rules)


def _check_prompt(prompt: str | None, rules: Rules) -> None:
    if prompt is None:
        raise Refusal(400, "Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter")
    if not prompt.strip():
        message = "Invalid 'prompt': empty string. Expected a string with minimum length 1."
        raise Refusal(400, message, "prompt", "empty_string")
    if len(prompt) > rules.max_prompt:
        message = f"Invalid 'prompt': string too long. Expected a string with maximum length {rules.max_prompt}."
        raise Refusal(400, message, "prompt", "string_above_max_length")


def _check_count(call: Call, rules: Rules) -> None:
    n = call.fields.get("n", 1)
    if call.content_type == "multipart/form-data" and re.fullmatch("[0-9]{1,9}", str(n)):
        n = int(n)
    if type(n) is not int:
        raise _wrong_type("n", "an integer")
    if not 1 <= n <= rules.max_n:
        side = "below_minimum" if n < 1 else "above_maximum"
        message = f"Invalid 'n': integer {side.replace('_', ' ')} value. Expected 1 to {rules.max_n}, but got {n}."
        raise Refusal(400, message, "n", f"integer_{side}_value")


def _check_size(size: str, rules: Rules) -> None:
    if rules.sizes is not None:
        _one_of("size", size, rules.sizes)
        return
    if size == "auto":
        return
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if match is None or width % 16 or height % 16:
        reason = "Width and height must both be divisible by 16."
    elif max(width, height) > 3 * min(width, height):
        reason = "The aspect ratio must not exceed 3:1."
    elif not 655_360 <= width * height <= 8_294_400:
        reason = "The image must have between 655360 and 8294400 pixels."
    else:
        return
    raise Refusal(400, f"Invalid size '{size}'. {reason}", "size", "invalid_value")


def _check_files(call: Call, rules: Rules) -> None:
    names = [part.field for part in call.files]
    if "image" in names and "image[]" in names:
        raise Refusal(400, "Send either 'image' or 'image[]', not both.", "image", "invalid_value")
    if names.count("image") > 1 or names.count("mask") > 1:
        raise Refusal(400, "Duplicate parameter.", "image", "duplicate_parameter")
    image, mask = call.file("image", "image[]"), call.file("mask")
    if image is None:
        raise Refusal(400, "Missing required parameter: 'image': no file was sent.", "image", "invalid_type")
    size = _check_file(image, small=rules is DALLE_2)
    if rules is DALLE_2 and size[0] != size[1]:
        raise Refusal(400, "Uploaded image must be square.", "image", "invalid_image")
    if mask is not None and _check_file(mask, small=True) != size:
        message = "Invalid mask image format - mask size does not match image size"
        raise Refusal(400, message, "mask", "invalid_mask_image_format")


def _check_file(part: FilePart, *, small: bool) -> tuple[int, int]:
    """Return the size of a picture; a `small` one is a PNG with alpha of less than 4 MB."""
    if part.filename is None:
        raise _wrong_type(part.field, "a file")
    if part.content_type not in MEDIA_TYPES:
        message = f"Invalid file '{part.filename}': unsupported mimetype ('{part.content_type or 'none'}')."
        raise Refusal(400, message, part.field, "unsupported_file_mimetype")
    if len(part.data) > 50 * MEGABYTE:
        raise Refusal(413, f"File '{part.field}' exceeds 50MB.", part.field)
    try:
        with Image.open(io.BytesIO(part.data)) as picture:
            is_fine = picture.format == "PNG" and picture.mode in ("RGBA", "LA") and len(part.data) < 4 * MEGABYTE
            size = picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as err:
        message = f"Invalid image file or mode for image '{part.field}', please check your image file."
        raise Refusal(400, message, part.field, "invalid_image_file") from err
    if small and not is_fine:
        message = f"Invalid {part.field} image format - it must be a PNG file with an alpha channel, less than 4 MB"
        raise Refusal(400, message, part.field, f"invalid_{part.field}_image_format")
    return size


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(f"'{item}'" for item in allowed)
        raise Refusal(400, f"Invalid value: '{value}'. Supported values are: {names}.", name, "invalid_value")


def _wrong_type(name: str, wanted: str) -> Refusal:
    return Refusal(400, f"Invalid type for '{name}': expected {wanted}.", name, "invalid_type")
