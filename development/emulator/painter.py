"""Pictures that prove what arrived: a landscape seeded by the prompt, with a caption of the request.

`paint` draws a new picture, `repaint` draws over the part of an uploaded one that its mask marks.
Both are deterministic: the same words, size and index give the same pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFont

from .scenery import draw_scene, land_cover

Size = tuple[int, int]
Box = tuple[int, int, int, int]

_MAX_LINES = 4
# Below this a caption could not be read, and would only hide the picture.
_MIN_CAPTION: Size = (96, 48)
_INK = (255, 255, 255, 255)
_INK_FAINT = (214, 218, 226, 255)
_PANEL = (14, 18, 28, 168)


@dataclass(frozen=True)
class Subject:
    """What to draw: `index` counts from 0 within an answer of `count` pictures."""

    prompt: str
    model: str
    size: Size
    index: int = 0
    count: int = 1
    transparent: bool = False

    @property
    def small_print(self) -> str:
        """The second part of the caption."""
        width, height = self.size
        return f"{width}x{height}  ·  {self.index + 1} of {self.count}  ·  {self.model}"


def paint(subject: Subject) -> Image.Image:
    """Return a new picture, RGB, or RGBA when the subject is transparent."""
    picture = _landscape(subject)
    _caption(picture, subject, (0, 0, *subject.size))
    return picture


def repaint(subject: Subject, original: Image.Image, marks: Image.Image, *, redraws: bool = False) -> Image.Image:
    """Return the original, painted over where `marks` (mode L) is white and mixed where it is grey.

    Both are scaled to the subject's size. With `redraws` the rest comes back changed, as GPT Image does it.
    """
    kept = _fit(original.convert("RGB"), subject.size)
    # Bilinear does not overshoot: what is far from the mask's edge stays exactly as it was.
    weight = _fit(marks, subject.size, Image.Resampling.BILINEAR)
    if redraws:
        kept = _drawn_anew(kept)
    # Another scene than `paint` would draw, or an edit with the original's prompt could not be seen.
    picture = _landscape(subject, shift=1)
    area = weight.getbbox()
    if area is not None:
        _caption(picture, subject, area)
    return Image.composite(picture.convert("RGB"), kept, weight)


def encode(picture: Image.Image, picture_format: str) -> bytes:
    """Return the picture as PNG, JPEG or WEBP bytes; JPEG has no alpha and gets a white ground."""
    if picture_format == "JPEG" and picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    file = io.BytesIO()
    options = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 90}, "WEBP": {"quality": 90, "method": 0}}
    picture.save(file, picture_format, **options[picture_format])
    return file.getvalue()


def _landscape(subject: Subject, *, shift: int = 0) -> Image.Image:
    picture, skyline = draw_scene(subject.prompt, subject.index + shift, subject.size)
    if subject.transparent:
        picture.putalpha(Image.fromarray(land_cover(skyline, picture.height)))
    return picture


def _fit(picture: Image.Image, size: Size, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, resample)


def _drawn_anew(picture: Image.Image) -> Image.Image:
    red, green, blue = ImageChops.offset(picture, 3, 2).split()
    warmer = [min(255, round(value * 0.94 + 14)) for value in range(256)]
    cooler = [round(value * 0.9) for value in range(256)]
    return Image.merge("RGB", (red.point(warmer), green, blue.point(cooler)))


def _caption(picture: Image.Image, subject: Subject, area: Box) -> None:
    """Write the prompt and the small print into `area`, if it is large enough.

    It stands in the lower left of a whole picture, and in the middle of a part, which may be round.
    """
    left, top, right, bottom = area
    width, height = right - left, bottom - top
    if width < _MIN_CAPTION[0] or height < _MIN_CAPTION[1]:
        return
    text_size = max(10, round(min(width, height) * 0.036))
    gap = max(5, text_size * 3 // 5)
    if area == (0, 0, *picture.size):
        panel = _panel(subject, text_size, gap, (width - 2 * gap, height - 2 * gap))
        corner = (gap, height - gap - panel.height)
    else:
        panel = _panel(subject, text_size, gap, (width * 4 // 5, height * 4 // 5))
        corner = (left + (width - panel.width) // 2, top + (height - panel.height) // 2)
    if picture.mode == "RGBA":
        picture.alpha_composite(panel, corner)
    else:
        picture.paste(panel, corner, panel)


def _panel(subject: Subject, text_size: int, gap: int, room: Size) -> Image.Image:
    """Return the caption's panel, at most as large as `room`."""
    font, small = _font(text_size), _font(max(9, round(text_size * 0.72)))
    step, small_step = round(text_size * 1.32), round(text_size * 1.05)
    line_width = min(room[0] - 2 * gap, text_size * 30)
    note = [line.strip(" ·") for line in _wrap(subject.small_print, small, line_width)]
    fitting = (room[1] - 2 * gap - len(note) * small_step) // step
    lines = _wrap(" ".join(subject.prompt.split()), font, line_width)[: max(1, fitting)]
    widths = [font.getlength(line) for line in lines] + [small.getlength(line) for line in note]
    size = (round(max(widths)) + 2 * gap, len(lines) * step + len(note) * small_step + 2 * gap)
    panel = Image.new("RGBA", size, (*_PANEL[:3], 0))
    draw = ImageDraw.Draw(panel)
    draw.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=gap, fill=_PANEL)
    for row, line in enumerate(lines):
        draw.text((gap, gap + row * step), line, font=font, fill=_INK)
    below = gap + len(lines) * step + step // 8
    for row, line in enumerate(note):
        draw.text((gap, below + row * small_step), line, font=small, fill=_INK_FAINT)
    return panel


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> list[str]:
    """Break text into lines that fit `room` pixels; what is beyond the last line ends in an ellipsis."""
    lines = [""]
    for word in text.split(" "):
        for piece in _pieces(word, font, room):
            longer = f"{lines[-1]} {piece}".strip()
            if font.getlength(longer) <= room:
                lines[-1] = longer
            else:
                lines.append(piece)
        if len(lines) > _MAX_LINES:
            break
    if len(lines) <= _MAX_LINES:
        return lines
    last = lines[_MAX_LINES - 1]
    while last and font.getlength(f"{last}…") > room:
        last = last[:-1]
    return [*lines[: _MAX_LINES - 1], f"{last}…"]


def _pieces(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> list[str]:
    # A word that is longer than a line, as in languages without spaces, breaks anywhere.
    pieces = [""]
    for letter in word[:400]:
        if font.getlength(pieces[-1] + letter) > room and pieces[-1]:
            pieces.append("")
        pieces[-1] += letter
    return pieces
