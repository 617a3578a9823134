"""The emulator in the part of three servers that were started and asked; how it plays the others, test_servers shows.

`recordings.jsonl` holds what they answered on 2026-11-24: stable-diffusion.cpp's sd-server, SGLang 0.5.23 and
Xinference 4.1.0. A line is one request, which changes one thing in the request "ok", then status, content type and
error, or the keys of the answer beside `data`, the number of pictures and the first of them. PORT, N, UUID and /SERVER
stand for what differs from run to run. What the node never sends is left out: broken bodies, wrong types, other paths.
"""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import Emulator
from tests.emulated import edit, half_mask, pictures, png

SERVERS = ["sdcpp", "sglang", "xinference"]
LINES = [json.loads(line) for line in Path(__file__).with_name("recordings.jsonl").read_text("utf-8").splitlines()]
OK: dict[str, Any] = {"model": "tiny-sd", "prompt": "x", "n": 1, "size": "256x256", "response_format": "b64_json"}
FILES = {"image": png("RGBA", (256, 256)), "mask": half_mask((256, 256))}
# None leaves a field out.
CHANGES: dict[str, dict[str, Any]] = {
    "ok": {},
    "model wrong": {"model": "nope"},
    "no model": {"model": None},
    "quality": {"quality": "low"},
    "response_format url": {"response_format": "url"},
    "response url": {"response_format": "url"},
    "no response_format": {"response_format": None},
    "response_format bogus": {"response_format": "bogus"},
    "no prompt": {"prompt": None},
    "n=2": {"n": 2},
    "size auto": {"size": "auto"},
    "size junk": {"size": "junk"},
    "unknown field": {"style": "vivid"},
    "seed": {"seed": 1},
    "no mask": {"mask": None},
    "no image": {"image": None},
    "image[]": {"image": None, "image[]": png("RGBA")},
    "image+image[]": {"image[]": png("RGBA")},
    "mask_image": {"mask": None, "mask_image": half_mask((64, 64))},
    "mask other size": {"mask": half_mask((32, 32))},
    "image junk": {"image": b"junk"},
    "mask junk": {"mask": b"junk"},
}


def send(emulator: Emulator, sent: str) -> requests.Response:
    route, _, name = sent.partition(" ")
    fields = {**OK, **(FILES if route == "edit" else {}), **CHANGES[name]}
    body = {key: value for key, value in fields.items() if value is not None}
    if route == "gen":
        return requests.post(f"{emulator.base_url}/images/generations", json=body, timeout=5)
    parts = {k: (f"{k}.png", v, "image/png") if isinstance(v, bytes) else (None, str(v)) for k, v in body.items()}
    return requests.post(f"{emulator.base_url}/images/edits", files=parts, timeout=5)


def described(response: requests.Response) -> Any:
    """An answer as the recordings describe it."""
    if response.status_code != 200:
        return response.json() if "json" in response.headers["Content-Type"] else response.text
    body = response.json()
    item = dict(body["data"][0])
    if item.get("b64_json"):
        picture = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
        item["b64_json"] = f"{picture.format} {picture.mode} {picture.size}"
    return {"keys": sorted(body.keys() - {"data"}), "n": len(body["data"]), "item": item}


def alike(value: Any) -> Any:
    """The value without what differs from run to run."""
    if isinstance(value, dict):
        names = value.keys() - {"input", "ctx", "revised_prompt"}
        return {name: alike(value[name]) for name in names}
    if isinstance(value, list):
        return [alike(item) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"^/(root|SERVER)/.*", "a path on the server", value)
    return re.sub(r"UUID|[0-9a-f]{32}|0x\w+|\d+|PORT|\bN\b", "#", value)


@pytest.mark.parametrize("server", SERVERS)
def test_answers_like_the_recording_of_the_real_server(server: str) -> None:
    lines = [line for line in LINES if line["server"] == server and line["sent"] != "models"]
    assert len(lines) > 25
    with Emulator(server, models=["tiny-sd"]) as emulator:
        for line in lines:
            response = send(emulator, line["sent"])
            came = (response.status_code, response.headers["Content-Type"], alike(described(response)))
            assert came == (line["status"], line["type"], alike(line["answer"])), line["sent"]


@pytest.mark.parametrize("server", SERVERS)
def test_lists_its_model_like_the_recording(server: str) -> None:
    (line,) = (line for line in LINES if line["server"] == server and line["sent"] == "models")
    with Emulator(server) as emulator:
        (listed,) = requests.get(f"{emulator.base_url}/models", timeout=5).json()["data"]
    assert listed.keys() >= set(line["answer"]["keys"])
    assert listed["owned_by"] == line["answer"]["owned_by"]


@pytest.mark.parametrize(
    ("server", "alpha", "painted", "kept"),
    [
        ("sdcpp", False, True, True),
        ("litellm", True, True, True),
        ("litellm", False, False, True),
        ("xinference", True, True, True),
        ("sglang", True, True, False),
        ("vllm", True, True, False),
    ],
)
def test_each_server_reads_masks_in_its_own_way(server: str, alpha: bool, painted: bool, kept: bool) -> None:
    with Emulator(server) as emulator:
        emulator.picture_format = "PNG"
        mask = half_mask((64, 64), alpha=alpha)
        (drawn,) = pictures(edit(emulator, png(), mask, response_format="b64_json", size="256x256"))
    left, right = drawn.crop((0, 0, 120, 256)), drawn.crop((136, 0, 256, 256))
    assert (left.getcolors(1) is None) is painted  # a part that is kept has one colour, as the image has
    assert (right.getcolors(1) is not None) is kept
