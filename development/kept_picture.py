"""`docs/images/kept.jpg`: an edit as a model of today draws it, and as the node returns it, side by side.

The emulator takes the model's part: like one, it draws the whole picture anew, and what was not masked comes back
in another light.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from development.emulator import Emulator
from development.package import ROOT, load_package
from development.workflows import example_photo

FILE = ROOT / "docs" / "images" / "kept.jpg"
PROMPT = "A red hot-air balloon"
SIDE_PX = 512
CAPTION_PX = 44
GAP_PX = 12
MASK_TINT = (235, 64, 52)


def main() -> int:
    FILE.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(panels()).save(FILE, quality=88)
    print(FILE.relative_to(Path.cwd()) if FILE.is_relative_to(Path.cwd()) else FILE)
    return 0


def panels() -> dict[str, Image.Image]:
    """What goes in, what the server draws, and what the node returns, under their captions."""
    load_package()
    from dalle2.nodes import OpenAIDalle2

    photo = Image.open(io.BytesIO(example_photo(SIDE_PX)))
    pixels = torch.from_numpy(np.asarray(photo).astype(np.float32) / 255)[None]
    with Emulator() as emulator:
        emulator.redraws = True
        os.environ |= {"OPENAI_BASE_URL": emulator.base_url, "OPENAI_API_KEY": "sk-emulated", "DALLE2_MODEL": "auto"}
        (kept,) = OpenAIDalle2().api_call(PROMPT, image=pixels[..., :3], mask=1 - pixels[..., 3], size="512x512")
        drawn = as_drawn(emulator)
    return {
        "the picture, and its mask in red": tinted(photo),
        "what the server draws: all of it, anew": drawn,
        "what the node returns": Image.fromarray((kept[0] * 255).round().to(torch.uint8).numpy()),
    }


def as_drawn(emulator: Emulator) -> Image.Image:
    """The server's own answer to the call that the node made."""
    from dalle2.api_client import ImagesClient
    from dalle2.models import ImageRequest

    call = emulator.posts[-1]
    request = ImageRequest(prompt=PROMPT, model=call.fields["model"], n=1, size=call.fields["size"], quality="low")
    with ImagesClient(emulator.base_url, headers={"Authorization": "Bearer sk-emulated"}) as client:
        answer = client.edit(request, image=call.file("image").data, mask=call.file("mask").data)
    picture = Image.open(io.BytesIO(answer.pictures[0].b64_json or b""))
    return picture.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def tinted(photo: Image.Image) -> Image.Image:
    """The photo with its transparent part in red, as the mask editor shows a mask."""
    red = Image.new("RGB", photo.size, MASK_TINT)
    strength = photo.getchannel("A").point(lambda alpha: (255 - alpha) * 3 // 4)
    return Image.composite(red, photo.convert("RGB"), strength)


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """The pictures in a row, each above its caption."""
    row = Image.new("RGB", (len(pictures) * (SIDE_PX + GAP_PX) - GAP_PX, SIDE_PX + CAPTION_PX), "white")
    draw = ImageDraw.Draw(row)
    font = ImageFont.load_default(20)
    for place, (caption, picture) in enumerate(pictures.items()):
        left = place * (SIDE_PX + GAP_PX)
        row.paste(picture, (left, 0))
        draw.text((left + SIDE_PX / 2, SIDE_PX + CAPTION_PX / 2), caption, fill="black", font=font, anchor="mm")
    return row


if __name__ == "__main__":
    sys.exit(main())
