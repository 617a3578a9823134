"""From a job to encoded pictures, and the gallery from which they can be downloaded for a while."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image, ImageChops

from .contract import Job
from .flavours import Flavour
from .knobs import Knobs
from .painter import Size, Subject, encode, paint, repaint
from .uploads import open_upload

MAX_KEPT_PICTURES = 200
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/svg+xml": "svg"}


@dataclass(frozen=True)
class Picture:
    """An encoded picture; `index` is its place in its answer. `guard` is the `auth` it takes to get it.

    What is not `shown` stays off the page: it was made to hurt whoever opens it.
    """

    data: bytes
    media_type: str
    index: int = 0
    prompt: str = ""
    guard: str = "none"
    shown: bool = True

    def guarded_by(self, auth: str) -> Picture:
        """Return the same picture behind a key."""
        return dataclasses.replace(self, guard=auth)


def produce(job: Job, flavour: Flavour, knobs: Knobs) -> list[Picture]:
    """Draw and encode what a job asks for. Takes a moment of one processor for each picture."""
    picture_format = knobs.picture_format or job.picture_format or flavour.picture_format
    count = max(0, job.n - knobs.fewer_by)
    original, marks = _open_edit(job, flavour, knobs)
    size = knobs.answer_size or job.size or (original.size if original else flavour.default_size)
    transparent = knobs.transparent or job.transparent
    pictures = []
    for index in range(count):
        subject = Subject(job.prompt, job.model, size, index, job.n, transparent)
        drawn = (
            paint(subject)
            if original is None or marks is None
            else repaint(subject, original, marks, redraws=knobs.redraws)
        )
        media_type = MEDIA_TYPES[picture_format]
        pictures.append(Picture(encode(drawn, picture_format), media_type, index, job.prompt))
    return pictures


def _open_edit(job: Job, flavour: Flavour, knobs: Knobs) -> tuple[Image.Image | None, Image.Image | None]:
    """Return the uploaded picture and, white where it is to be painted, its mask; None for a new picture."""
    if job.image is None:
        return None, None
    image = open_upload(job.image)
    mask = open_upload(job.mask) if job.mask is not None else None
    reads_image_alpha = flavour.mask_field is not None and not flavour.white_is_edit
    if knobs.ignore_mask or (mask is None and not (reads_image_alpha and image.has_transparency_data)):
        return image, Image.new("L", image.size, 255)
    if flavour.white_is_edit and mask is not None:
        return image, _fit_mask(mask.convert("RGB").convert("L"), image.size)
    source = image if mask is None else mask
    return image, _fit_mask(ImageChops.invert(source.convert("RGBA").getchannel("A")), image.size)


def _fit_mask(marks: Image.Image, size: Size) -> Image.Image:
    return marks if marks.size == size else marks.resize(size, Image.Resampling.NEAREST)


class Gallery:
    """The newest pictures, by unguessable name. Older ones are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def add(self, picture: Picture) -> str:
        """Keep a picture and return its file name."""
        name = f"{secrets.token_hex(8)}.{_SUFFIXES.get(picture.media_type, 'bin')}"
        with self._lock:
            self._pictures[name] = picture
            while len(self._pictures) > MAX_KEPT_PICTURES:
                self._pictures.popitem(last=False)
        return name

    def find(self, name: str) -> Picture | None:
        """Return the picture of that file name, if it is still there."""
        with self._lock:
            return self._pictures.get(name)

    def newest(self, count: int) -> list[tuple[str, Picture]]:
        """Return up to `count` names and pictures, the newest first."""
        with self._lock:
            shown = [item for item in reversed(self._pictures.items()) if item[1].shown]
            return shown[:count]
