"""Checks of uploaded files: today's rules, and those of the archived DALL·E 2 contract."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from .errors import Refusal
from .records import FilePart
from .rules import MAX_FILE_BYTES, MAX_SMALL_PNG_BYTES

MAX_IMAGES = 16
# Below the number at which Pillow begins to warn of decompression bombs.
MAX_PIXELS = 64_000_000
_MEDIA_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


def check_files(images: Sequence[FilePart], mask: FilePart | None) -> None:
    """Check the files of an edit with a GPT Image model. Raises Refusal with the documented error."""
    if len(images) > MAX_IMAGES:
        message = f"Too many images: at most {MAX_IMAGES}."
        raise Refusal(400, message, param="image", code="array_above_max_length")
    for part in images:
        _check_part(part)
    first = open_upload(images[0])
    if mask is None:
        return
    _check_part(mask)
    opened = open_upload(mask)
    if opened.format != "PNG" or len(mask.data) >= MAX_SMALL_PNG_BYTES:
        raise _bad_mask("the mask must be a PNG file and less than 4 MB")
    if opened.mode not in ("RGBA", "LA"):
        raise _bad_mask("mask image missing alpha channel")
    if opened.size != first.size:
        raise _bad_mask("mask size does not match image size")


def check_classic_files(images: Sequence[FilePart], mask: FilePart | None) -> None:
    """Check the files of an edit as DALL·E 2 took them. Raises Refusal with the documented error."""
    if len(images) != 1 or images[0].field != "image":
        message = "Exactly one image is supported by this model."
        raise Refusal(400, message, param="image", code="invalid_value")
    image = _open_classic(images[0])
    if image.width != image.height:
        raise Refusal(400, "Uploaded image must be square.", param="image", code="invalid_image")
    if mask is not None and _open_classic(mask).size != image.size:
        raise Refusal(400, "Uploaded mask must have the same dimensions as the image.", param="mask")


def open_upload(part: FilePart) -> Image.Image:
    """Return the picture in a file part. Raises Refusal when it is none, broken or absurdly large."""
    try:
        picture = Image.open(io.BytesIO(part.data), formats=list(_MEDIA_TYPES.values()))
        if picture.width * picture.height > MAX_PIXELS:
            raise Refusal(400, "The image has too many pixels.", param=part.field, code="invalid_image_file")
        picture.load()
        return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        message = f"Invalid image file or mode for image '{part.field}', please check your image file."
        raise Refusal(400, message, param=part.field, code="invalid_image_file") from err


def _check_part(part: FilePart) -> None:
    if part.filename is None:
        message = f"Invalid type for '{part.field}': expected a file, but got a string instead."
        raise Refusal(400, message, param=part.field, code="invalid_type")
    if part.content_type not in _MEDIA_TYPES:
        names = ", ".join(f"'{name}'" for name in _MEDIA_TYPES)
        raise Refusal(
            400,
            f"Invalid file '{part.filename}': unsupported mimetype ('{part.content_type or 'none'}'). "
            f"Supported file formats are {names}.",
            param=part.field,
            code="unsupported_file_mimetype",
        )
    if len(part.data) > MAX_FILE_BYTES:
        raise Refusal(413, f"File '{part.field}' exceeds 50MB.", param=part.field)


def _open_classic(part: FilePart) -> Image.Image:
    _check_part(part)
    opened = open_upload(part)
    if opened.format != "PNG" or len(part.data) >= MAX_SMALL_PNG_BYTES:
        raise Refusal(400, "Uploaded image must be a PNG and less than 4 MB.", param=part.field)
    if opened.mode not in ("RGBA", "LA"):
        message = f"Invalid input image - format must be in ['RGBA', 'LA'], got {opened.mode}."
        raise Refusal(400, message, param=part.field, code="invalid_image_format")
    return opened


def _bad_mask(reason: str) -> Refusal:
    message = f"Invalid mask image format - {reason}"
    return Refusal(400, message, param="mask", code="invalid_mask_image_format")
