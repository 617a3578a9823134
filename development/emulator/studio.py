"""From a job to encoded pictures, as the knobs have it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageChops

from .job import Flavour, Job, Size, refuse
from .painter import add_caption, draw_scene, redrawn
from .records import FilePart

OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},
    "JPEG": {"quality": 90},
    "WEBP": {"quality": 90, "method": 0},
}


class Knobs:
    """What can be turned while the emulator runs; None stands for what its server does by itself.

    `delay_s`: seconds between a complete POST and its answer.
    `result`: how pictures come back: "b64", "url", "relative_url", "file_path" or "mixed" (b64 and url).
    `picture_delay_s`: seconds before each download, one value or one for each picture of an answer.
    `picture_format`: "PNG", "JPEG" or "WEBP". `answer_size`: draw in this size, whatever was asked.
    `transparent`: draw without a sky. `fewer_by`: how many pictures to withhold. `ignore_mask`: edits repaint all.
    `redraws`: edits also change what the mask keeps, a little; by themselves, all models but DALL·E 2 do.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.result: str | None = None
        self.picture_delay_s: float | Sequence[float] = 0.0
        self.picture_format: str | None = None
        self.answer_size: Size | None = None
        self.transparent = False
        self.fewer_by = 0
        self.ignore_mask = False
        self.redraws: bool | None = None

    def download_delay_s(self, index: int) -> float:
        """Seconds to wait before the picture with that index in its answer is handed out."""
        delays = self.picture_delay_s
        return delays[index % len(delays)] if isinstance(delays, Sequence) else delays


@dataclass(frozen=True)
class Picture:
    """An encoded picture; `index` is its place in its answer. `guard` is the `auth` it takes to get it."""

    data: bytes
    media_type: str
    index: int = 0
    prompt: str = ""
    guard: str = "none"


def produce(job: Job, flavour: Flavour, knobs: Knobs) -> tuple[Size, list[Picture]]:
    """Draw and encode what a job asks for; return the size and the pictures. Raises Refusal for a file that is none."""
    original = _opened(job.image, flavour)
    size = knobs.answer_size or job.size or (original.size if original else flavour.default_size)
    picture_format = knobs.picture_format or job.picture_format
    kept, marks = None, None
    if original is not None:
        kept = _fit(original.convert("RGB"), size)
        if knobs.redraws or (knobs.redraws is None and job.model != "dall-e-2"):
            kept = redrawn(kept)
        marks = _fit(_marks(job, flavour, knobs, original), size)
    pictures = []
    for index in range(job.n - knobs.fewer_by):
        note = f"{size[0]}x{size[1]}, {index + 1} of {job.n}, {job.model}"
        if kept is None or marks is None:
            data = _painted(job.prompt, index, size, note, knobs.transparent, picture_format)
        else:
            data = _encoded(_repainted(job.prompt, index, note, kept, marks), picture_format)
        pictures.append(Picture(data, f"image/{picture_format.lower()}", index, job.prompt))
    return size, pictures


def _opened(part: FilePart | None, flavour: Flavour) -> Image.Image | None:
    """Return the picture in a file, None without one. Raises Refusal when the server minds that it is none."""
    if part is None:
        return None
    try:
        picture = Image.open(io.BytesIO(part.data))
        picture.load()
        return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        refuse(flavour.file_invalid, part.field)
        return None


# The tests ask for the same few pictures again and again.
@lru_cache(maxsize=64)
def _painted(prompt: str, index: int, size: Size, note: str, transparent: bool, picture_format: str) -> bytes:
    picture = draw_scene(prompt, index, size, transparent=transparent)
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


def _marks(job: Job, flavour: Flavour, knobs: Knobs, original: Image.Image) -> Image.Image:
    """Return what is to be painted: white where the mask of the job says so."""
    mask = _opened(job.mask, flavour)
    reads_alpha = flavour.mask_field is not None and not flavour.white_is_edit
    source = mask or (original if reads_alpha and original.has_transparency_data else None)
    if knobs.ignore_mask or source is None:
        return Image.new("L", original.size, 255)
    if reads_alpha:
        return ImageChops.invert(source.convert("RGBA").getchannel("A"))
    return source.convert("RGB").convert("L")


def _fit(picture: Image.Image, size: Size) -> Image.Image:
    # Bilinear does not overshoot: what is far from the mask's edge stays exactly as it was.
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _encoded(picture: Image.Image, picture_format: str) -> bytes:
    file = io.BytesIO()
    if picture_format == "JPEG":
        picture = picture.convert("RGB")
    picture.save(file, picture_format, **OPTIONS[picture_format])
    return file.getvalue()
