"""The emulator by itself: as strict as OpenAI, pictures that show what was asked for, and a quick end.

What its faults are and what it logs, the tests of the nodes show.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image, ImageChops

from development.emulator import Emulator, Fault
from development.emulator.painter import draw_scene
from tests.emulated import KEY, edit, generate, half_mask, pictures, png


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def openai(running: Emulator) -> Emulator:
    """An OpenAI whose pictures are small."""
    running.reset()
    running.answer_size = (256, 256)
    return running


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
        (b"no picture", half_mask((64, 64)), "invalid_image_file"),
        (png(), png("RGB"), "invalid_mask_format"),
        (png(), half_mask((8, 8)), "invalid_mask_format"),
        (png(), half_mask((64, 64)), None),
    ],
)
def test_openai_edits_only_with_the_right_files(openai: Emulator, image: bytes, mask: bytes, code: str | None) -> None:
    response = edit(openai, image, mask, model="gpt-image-2", n="1")
    assert (response.status_code, response.json().get("error", {}).get("code")) == (400 if code else 200, code)


def test_a_fault_that_makes_no_sense_is_refused() -> None:
    for name, route in (("no_such_fault", "any"), ("file_path_url", "pictures")):
        with pytest.raises(ValueError, match=name):
            Fault(name, route)


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


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d", "\ud800"])
def test_any_prompt_can_be_drawn(openai: Emulator, prompt: str) -> None:
    assert len(pictures(generate(openai, model="gpt-image-2", prompt=prompt))) == 1


@pytest.mark.parametrize("fault", [None, "drip", "endless_body"])
def test_it_stops_promptly_while_requests_hang(fault: str | None) -> None:
    def swallow() -> None:
        with pytest.raises(requests.RequestException):
            generate(emulator, model="gpt-image-2")

    with Emulator(delay_s=0 if fault else 60) as emulator:
        if fault:
            emulator.fail(Fault(fault))
        thread = threading.Thread(target=swallow)
        thread.start()
        while not emulator.posts or not emulator.posts[0].fields:
            time.sleep(0.01)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 1
    thread.join(5)
    assert not thread.is_alive()


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
