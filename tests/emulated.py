"""What the tests of the emulator share: requests to it, and files to send."""

from __future__ import annotations

import base64
import io
from typing import Any

import requests
from PIL import Image

from development.emulator import Emulator

KEY = {"Authorization": "Bearer sk-emulated"}


def generate(emulator: Emulator, **fields: Any) -> requests.Response:
    url = f"{emulator.base_url}/images/generations"
    return requests.post(url, json={"prompt": "mountains", **fields}, headers=KEY, timeout=10)


def edit(emulator: Emulator, image: bytes, mask: bytes, **fields: Any) -> requests.Response:
    files = {"image": ("image.png", image, "image/png"), "mask": ("mask.png", mask, "image/png")}
    url = f"{emulator.base_url}/images/edits"
    return requests.post(url, data={"prompt": "mountains", **fields}, files=files, headers=KEY, timeout=10)


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, "red").save(file, "PNG")
    return file.getvalue()


def half_mask(size: tuple[int, int], *, alpha: bool = True) -> bytes:
    """The mask of the project: white, transparent on the left; black, opaque on the right."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((255, 255, 255, 0 if alpha else 255), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def pictures(response: requests.Response) -> list[Image.Image]:
    assert response.status_code == 200, response.text
    return [Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) for item in response.json()["data"]]
