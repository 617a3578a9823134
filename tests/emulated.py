"""What the tests of the emulator share: requests to it, and files to send."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import Emulator

KEY = {"Authorization": "Bearer sk-emulated"}
GENERATION = {"model": "gpt-image-2", "prompt": "mountains", "size": "1024x1024", "quality": "low"}
SMALL = {"model": "dall-e-2", "prompt": "mountains", "size": "256x256", "response_format": "b64_json"}
TALL = {"model": "dall-e-3", "prompt": "mountains", "size": "1024x1792", "response_format": "b64_json"}


@pytest.fixture(scope="module", name="running")
def started() -> Iterator[Emulator]:
    """An OpenAI that still has the old models too."""
    with Emulator(models=("gpt-image-2", "gpt-image-1.5", "dall-e-2", "dall-e-3")) as emulator:
        yield emulator


@pytest.fixture(name="openai")
def clean(running: Emulator) -> Emulator:
    running.reset()
    return running


def generate(emulator: Emulator, body: dict[str, Any], headers: dict[str, str] = KEY, **more: Any) -> requests.Response:
    more.setdefault("timeout", 10)
    return requests.post(f"{emulator.base_url}/images/generations", json=body, headers=headers, **more)  # noqa: S113


def edit(
    emulator: Emulator, image: bytes, mask: bytes | None = None, *, route: str = "edits", **fields: Any
) -> requests.Response:
    files = {"image": ("image.png", image, "image/png")}
    if mask is not None:
        files["mask"] = ("mask.png", mask, "image/png")
    url = f"{emulator.base_url}/images/{route}"
    return requests.post(url, data={"prompt": "mountains", **fields}, files=files, headers=KEY, timeout=10)


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, "red").save(file, kind)
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
