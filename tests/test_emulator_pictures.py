"""The emulator's pictures: what can be seen on them, and how they come back."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import requests
from PIL import Image, ImageChops

from development.emulator import Emulator
from development.emulator.painter import DAYS, NIGHTS, SUNSETS, draw_scene
from tests import emulated
from tests.emulated import GENERATION, KEY, SMALL, edit, generate, half_mask, pictures

running, openai = emulated.running, emulated.openai


@pytest.mark.parametrize(
    ("prompt", "palettes"),
    [("mountains at sunset", SUNSETS), ("a moonlit sea", NIGHTS), ("night", NIGHTS), ("the ocean", DAYS)],
)
def test_words_of_the_prompt_choose_the_light(
    prompt: str, palettes: tuple[tuple[tuple[int, int, int], ...], ...]
) -> None:
    corners = np.asarray([draw_scene(prompt, index, (256, 256)).getpixel((0, 0)) for index in range(4)])
    distances = [min(np.abs(corner - palette[0]).max() for palette in palettes) for corner in corners]
    assert max(distances) < 40  # the light of the sun reaches the corners a little


def test_the_pictures_of_an_answer_differ_clearly_and_do_so_again(openai: Emulator) -> None:
    first = pictures(generate(openai, {**SMALL, "n": 4}))
    again = pictures(generate(openai, {**SMALL, "n": 4}))
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    for one, other in zip(first, first[1:], strict=False):
        assert np.asarray(ImageChops.difference(one, other)).mean() > 10


def test_the_caption_tells_prompt_number_and_size(openai: Emulator) -> None:
    below = (0, 200, 256, 256)
    for change in ({"n": 2}, {"model": "gpt-image-2", "size": "1024x1024"}):
        body = {**SMALL, **change}
        if "model" in change:
            del body["response_format"]
        openai.answer_size = (256, 256)
        one, other = pictures(generate(openai, SMALL))[0], pictures(generate(openai, body))[0]
        assert one.crop((0, 0, 256, 200)).tobytes() == other.crop((0, 0, 256, 200)).tobytes()
        assert one.crop(below).tobytes() != other.crop(below).tobytes()


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d", "<script>", "\ud800"])
def test_any_prompt_can_be_drawn(openai: Emulator, prompt: str) -> None:
    assert len(pictures(generate(openai, {**SMALL, "prompt": prompt}))) == 1


def test_a_model_of_today_changes_the_whole_picture_a_little(openai: Emulator) -> None:
    original = Image.effect_noise((1024, 1024), 60).convert("RGB")
    file = io.BytesIO()
    original.save(file, "PNG")
    fields = {name: value for name, value in GENERATION.items() if name != "prompt"}
    (drawn,) = pictures(edit(openai, file.getvalue(), half_mask((1024, 1024)), **fields))
    kept, painted = (512, 0, 1024, 1024), (0, 0, 512, 1024)
    change = np.asarray(ImageChops.difference(drawn, original).crop(kept))
    assert 0 < np.median(change) < 80 and (change > 0).any(axis=2).mean() > 0.9
    assert np.asarray(drawn.crop(painted)).std(axis=2).mean() > 20  # colours, where the noise was grey


def test_knobs_change_size_format_transparency_and_number(openai: Emulator) -> None:
    openai.answer_size, openai.picture_format, openai.fewer_by = (300, 200), "JPEG", 1
    assert [(p.size, p.format) for p in pictures(generate(openai, {**SMALL, "n": 3}))] == [((300, 200), "JPEG")] * 2
    openai.reset()
    openai.transparent = True
    assert pictures(generate(openai, SMALL))[0].getchannel("A").getextrema() == (0, 255)


def test_pictures_come_back_as_the_knob_says(openai: Emulator) -> None:
    openai.result = "mixed"
    assert [sorted(item) for item in generate(openai, {**SMALL, "n": 2}).json()["data"]] == [["b64_json"], ["url"]]
    openai.result = "relative_url"
    url = openai.origin + generate(openai, SMALL).json()["data"][0]["url"]
    assert requests.get(url, timeout=5).status_code == 401
    assert requests.get(url, headers=KEY, timeout=5).status_code == 200


def test_answers_and_downloads_take_their_time(openai: Emulator) -> None:
    # More than is measured: Windows' clock counts in steps of 16 ms.
    openai.delay_s, openai.picture_delay_s, openai.result = 0.25, [0.0, 0.25], "url"
    stamps = [time.monotonic()]
    items = generate(openai, {**SMALL, "n": 2}).json()["data"]
    stamps.append(time.monotonic())
    for item in items:
        requests.get(item["url"], timeout=5)
        stamps.append(time.monotonic())
    answer_s, first_s, second_s = (end - start for start, end in zip(stamps, stamps[1:], strict=False))
    assert answer_s >= 0.2 and first_s < 0.2 <= second_s
