"""From a job to encoded pictures, as the knobs have it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops

from .job import Flavour, Job, Size, refuse
from .painter import add_caption, draw_scene, redrawn
from .wire import FilePart


class Knobs:
    """What can be turned while the emulator runs; None stands for what its server does by itself.

    `delay_s`: seconds between a complete POST and its answer.
    `result`: how pictures come back: "b64", "url", "relative_url", "file_path" or "mixed" (b64 and url).
    `picture_delay_s`: seconds before each download, one value or one for each picture of an answer.
    `picture_format`: "PNG", "JPEG" or "WEBP". `answer_size`: draw in this size, whatever was asked.
    `ignore_mask`: edits repaint all.
    """

    def reset_knobs(self, delay_s: float = 0.0) -> None:
        """Put every knob in its place."""
        self.delay_s = delay_s
        self.result: str | None = None
        self.picture_delay_s: float | Sequence[float] = 0.0
        self.picture_format: str | None = None
        self.answer_size: Size | None = None
        self.ignore_mask = False

    def download_delay_s(self, index: int) -> float:
        """Seconds to wait before the picture with that index in its answer is handed out."""
        delays = self.picture_delay_s
        return delays[index % len(delays)] if isinstance(delays, Sequence) else delays


@dataclass(frozen=True)
class Picture:
    """An encoded picture; `index` is its place in its answer."""

    data: bytes
    media_type: str
    index: int


def produce(job: Job, flavour: Flavour, knobs: Knobs) -> list[Picture]:
    """Draw and encode what a job asks for. Raises Refusal for a file that is no picture."""
    original = _opened(job.image, flavour)
    size = knobs.answer_size or job.size or (original.size if original else flavour.default_size)
    picture_format = knobs.picture_format or flavour.picture_format
    notes = [f"{size[0]}x{size[1]}, {number} of {job.n}, {job.model}" for number in range(1, job.n + 1)]
    if original is None:
        files = [_painted(job.prompt, index, size, note, picture_format) for index, note in enumerate(notes)]
    else:
        kept = redrawn(_fit(original.convert("RGB"), size))
        marks = _fit(_marks(job, flavour, knobs, original.size), size)
        edits = [_repainted(job.prompt, index, note, kept, marks) for index, note in enumerate(notes)]
        files = [_encoded(picture, picture_format) for picture in edits]
    return [Picture(data, f"image/{picture_format.lower()}", index) for index, data in enumerate(files)]


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


def _marks(job: Job, flavour: Flavour, knobs: Knobs, size: Size) -> Image.Image:
    """Return what is to be painted: white where the mask of the job says so, all of `size` without one."""
    mask = _opened(job.mask, flavour)
    if mask is None or knobs.ignore_mask:
        return Image.new("L", size, 255)
    if flavour.white_is_edit:
        return mask.convert("RGB").convert("L")
    return ImageChops.invert(mask.convert("RGBA").getchannel("A"))


def _fit(picture: Image.Image, size: Size) -> Image.Image:
    # Bilinear does not overshoot: what is far from the mask's edge stays exactly as it was.
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _encoded(picture: Image.Image, picture_format: str) -> bytes:
    file = io.BytesIO()
    # Each format takes the options that it knows.
    picture.save(file, picture_format, compress_level=1, quality=90, method=0)
    return file.getvalue()
