"""From a job to encoded pictures."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageChops

from .job import Flavour, Job, Size
from .painter import add_caption, draw_scene, redrawn
from .wire import FilePart


def produce(job: Job, flavour: Flavour, size: Size, picture_format: str) -> list[bytes]:
    """Draw what a job asks for, in this size and format."""
    notes = [f"{size[0]}x{size[1]}, {number} of {job.n}, {job.model}" for number in range(1, job.n + 1)]
    if job.image is None:
        return [_painted(job.prompt, index, size, note, picture_format) for index, note in enumerate(notes)]
    marks = Image.new("L", size, 255)
    if job.mask is not None:
        marks = _fit(_marks(job.mask, flavour), size)
    kept = redrawn(_fit(_opened(job.image).convert("RGB"), size))
    edits = [_repainted(job.prompt, index, note, kept, marks) for index, note in enumerate(notes)]
    return [_encoded(picture, picture_format) for picture in edits]


def _opened(part: FilePart) -> Image.Image:
    return Image.open(io.BytesIO(part.data))


# The tests ask for the same few pictures again and again.
@lru_cache(maxsize=64)
def _painted(prompt: str, index: int, size: Size, note: str, picture_format: str) -> bytes:
    picture = draw_scene(prompt, index, size)
    add_caption(picture, prompt, note)
    return _encoded(picture, picture_format)


def _repainted(prompt: str, index: int, note: str, kept: Image.Image, marks: Image.Image) -> Image.Image:
    """Return a picture, painted over where `marks` (mode L) is white and mixed where it is grey."""
    # Another scene than a new picture would show, or an edit with the prompt of the original could not be seen.
    paint = draw_scene(prompt, index + 1, kept.size)
    area = marks.getbbox()
    if area:
        add_caption(paint, prompt, note, area)
    return Image.composite(paint, kept, marks)


def _marks(mask: FilePart, flavour: Flavour) -> Image.Image:
    """Return what a mask says is to be painted, in white."""
    if flavour.white_is_edit:
        return _opened(mask).convert("RGB").convert("L")
    return ImageChops.invert(_opened(mask).convert("RGBA").getchannel("A"))


def _fit(picture: Image.Image, size: Size) -> Image.Image:
    # Bilinear does not overshoot: what is far from the mask's edge stays exactly as it was.
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _encoded(picture: Image.Image, picture_format: str) -> bytes:
    file = io.BytesIO()
    # Each format takes the options that it knows.
    picture.save(file, picture_format, compress_level=1, quality=90, method=0)
    return file.getvalue()
