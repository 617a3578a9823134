"""The emulator by itself: as strict as OpenAI, like three servers that were recorded, and with pictures that show it.

What its faults are, what it logs and how it plays the other servers, the tests of the nodes show.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image, ImageChops

from development.emulator import Emulator, Fault
from development.emulator.painter import draw_scene
from tests.loopback import wait_for
from tests.pictures import file_of, png

KEY = {"Authorization": "Bearer sk-emulated"}


def generate(emulator: Emulator, **fields: Any) -> requests.Response:
    url = f"{emulator.base_url}/images/generations"
    return requests.post(url, json={"prompt": "mountains", **fields}, headers=KEY, timeout=10)


def edit(emulator: Emulator, image: bytes, mask: bytes, **fields: Any) -> requests.Response:
    files = {"image": ("image.png", image, "image/png"), "mask": ("mask.png", mask, "image/png")}
    url = f"{emulator.base_url}/images/edits"
    return requests.post(url, data={"prompt": "mountains", **fields}, files=files, headers=KEY, timeout=10)


def half_mask(side: int) -> bytes:
    """The mask of the project: white, transparent on the left; black, opaque on the right."""
    mask = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    mask.paste((255, 255, 255, 0), (0, 0, side // 2, side))
    return file_of(mask)


def pictures(response: requests.Response) -> list[Image.Image]:
    assert response.status_code == 200, response.text
    return [Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) for item in response.json()["data"]]


PHOTO = png((64, 64))


@pytest.fixture
def openai() -> Iterator[Emulator]:
    """An OpenAI whose pictures are small."""
    with Emulator() as emulator:
        emulator.answer_size = (256, 256)
        yield emulator


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "b64_json"}, "response_format"),
        ({"n": "2"}, "n"),
        ({"n": 11}, "n"),
        ({"size": "512x512"}, "size"),
        ({"size": "1000x1024"}, "size"),
        ({"size": "3200x1024"}, "size"),
        ({"model": "gpt-image-1.5", "size": "1024x1792"}, "size"),
        ({"quality": "standard"}, "quality"),
        ({"prompt": " \n"}, "prompt"),
        ({"model": ""}, "model"),
        ({"model": "dall-e-2"}, "model"),
    ],
)
def test_openai_refuses_a_wrong_field_by_name(openai: Emulator, fields: dict[str, Any], param: str) -> None:
    response = generate(openai, **{"model": "gpt-image-2", **fields})
    assert response.status_code == (404 if "dall-e-2" in fields.values() else 400)
    assert response.json()["error"]["param"] == param
    assert openai.paid_pictures == 0
    assert generate(openai, model="gpt-image-2", n=2, size="1024x1792", quality="low").status_code == 200
    assert openai.paid_pictures == 2


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (b"no picture", half_mask(64), "invalid_image_file"),
        (PHOTO, PHOTO, "invalid_mask_format"),
        (PHOTO, half_mask(8), "invalid_mask_format"),
        (PHOTO, half_mask(64), None),
    ],
)
def test_openai_edits_only_with_the_right_files(openai: Emulator, image: bytes, mask: bytes, code: str | None) -> None:
    response = edit(openai, image, mask, model="gpt-image-2", n="1")
    assert (response.status_code, response.json().get("error", {}).get("code")) == (400 if code else 200, code)


def test_random_faults_repeat_with_their_seed(openai: Emulator) -> None:
    def run(seed: int) -> list[int]:
        openai.fail_at_random([Fault("unavailable"), Fault("missing_picture")], 0.5, seed)
        return [generate(openai, model="gpt-image-2").status_code for _ in range(12)]

    first, second, other = run(1), run(1), run(4)
    assert first == second != other
    assert set(first) == {200, 503}


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.asarray(ImageChops.difference(one, other)).mean())


def test_words_of_the_prompt_choose_the_scene() -> None:
    size = (256, 256)
    day, night, sunset = (np.asarray(draw_scene(f"sea, {word}", 0, size)) for word in ("noon", "moonlit", "sunset"))
    assert night.mean() < 90 < day.mean()
    assert sunset[120, :, 0].mean() > sunset[120, :, 2].mean() + 40  # the sky above the horizon is red
    mountains = np.asarray(draw_scene("mountains", 0, size))
    assert day[135:145].std(axis=1).mean() < mountains[135:145].std(axis=1).mean()  # a sea is level


def test_the_pictures_of_an_answer_differ_clearly_and_say_how_many_there_are(openai: Emulator) -> None:
    four = pictures(generate(openai, model="gpt-image-2", n=4))
    (one,) = pictures(generate(openai, model="gpt-image-2"))
    assert all(difference(picture, other) > 10 for picture, other in pairwise(four))
    above, caption = (0, 0, 256, 200), (0, 200, 256, 256)
    assert difference(one.crop(above), four[0].crop(above)) == 0 < difference(one.crop(caption), four[0].crop(caption))


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d"])
def test_any_prompt_can_be_drawn(openai: Emulator, prompt: str) -> None:
    assert len(pictures(generate(openai, model="gpt-image-2", prompt=prompt))) == 1


@pytest.mark.parametrize("fault", [None, "drip", "endless_body"])
def test_it_stops_promptly_while_requests_hang(fault: str | None) -> None:
    with ThreadPoolExecutor() as pool:
        with Emulator(delay_s=0 if fault else 60) as emulator:
            if fault:
                emulator.fail(Fault(fault))
            asked = pool.submit(generate, emulator, model="gpt-image-2")
            wait_for(lambda: any(post.fields for post in emulator.posts))
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 1
        assert isinstance(asked.exception(5), requests.RequestException)


def test_it_runs_on_its_own_and_says_what_to_set(openai: Emulator) -> None:
    command = [sys.executable, "-m", "development.emulator", "--delay", "0", "--fail", "quota", "--port"]
    folder = Path(__file__).parents[1]
    with subprocess.Popen([*command, "0"], cwd=folder, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        base_url = [run.stdout.readline().strip() for _ in range(2)][1].removeprefix("OPENAI_BASE_URL=")
        listed = requests.get(f"{base_url}/models", headers=KEY, timeout=5)
        refused = requests.post(f"{base_url}/images/generations", json={}, headers=KEY, timeout=5)
        run.terminate()
    assert (listed.status_code, refused.status_code) == (200, 429)
    taken = subprocess.run([*command, str(openai.port)], cwd=folder, capture_output=True, text=True, check=False)
    assert taken.returncode == 1 and str(openai.port) in taken.stderr


# `recordings.jsonl` holds what three servers answered that were started and asked on 2026-11-24: stable-diffusion.cpp's
# sd-server, SGLang 0.5.23 and Xinference 4.1.0. A line is one request, which changes one thing in the request "ok", and
# status, content type and error, or the keys of the answer beside `data`, the number of pictures and the first of them.
# PORT, N, UUID and /SERVER stand for what differs from run to run. The emulator is held to what the nodes may send.
SERVERS = ["sdcpp", "sglang", "xinference"]
LINES = [json.loads(line) for line in Path(__file__).with_name("recordings.jsonl").read_text("utf-8").splitlines()]
OK: dict[str, Any] = {"model": "tiny-sd", "prompt": "x", "n": 1, "size": "256x256", "response_format": "b64_json"}
FILES = {"image": png((256, 256), mode="RGBA"), "mask": half_mask(256)}
# None leaves a field out.
CHANGES: dict[str, dict[str, Any]] = {
    "ok": {},
    "model wrong": {"model": "nope"},
    "no model": {"model": None},
    "quality": {"quality": "low"},
    "n=2": {"n": 2},
    "unknown field": {"style": "vivid"},
    "no mask": {"mask": None},
    "image[]": {"image": None, "image[]": png((64, 64), mode="RGBA")},
    "image+image[]": {"image[]": png((64, 64), mode="RGBA")},
    "mask_image": {"mask": None, "mask_image": half_mask(64)},
    "mask other size": {"mask": half_mask(32)},
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
        return {name: alike(value[name]) for name in value.keys() - {"revised_prompt"}}
    if isinstance(value, list):
        return [alike(item) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"^/(root|SERVER)/.*", "a path on the server", value)
    return re.sub(r"\d+|PORT|\bN\b", "#", value)


@pytest.mark.parametrize("server", SERVERS)
def test_answers_like_the_recording_of_the_real_server(server: str) -> None:
    lines = [line for line in LINES if line["server"] == server and line["sent"].partition(" ")[2] in CHANGES]
    assert len(lines) > 12
    with Emulator(server, models=["tiny-sd"]) as emulator:
        for line in lines:
            response = send(emulator, line["sent"])
            assert response.headers["Content-Type"].startswith(line["type"])
            assert (response.status_code, alike(described(response))) == (line["status"], alike(line["answer"])), line


@pytest.mark.parametrize("server", SERVERS)
def test_lists_its_model_like_the_recording(server: str) -> None:
    (line,) = (line for line in LINES if line["server"] == server and line["sent"] == "models")
    with Emulator(server) as emulator:
        (listed,) = requests.get(f"{emulator.base_url}/models", timeout=5).json()["data"]
    assert listed.keys() >= set(line["answer"]["keys"])
    assert listed["owned_by"] == line["answer"]["owned_by"]
