"""How the emulator's pictures come back: as its knobs say, after a while, and the same for the same request."""

from __future__ import annotations

import threading
import time

import pytest
import requests

from development.emulator import Emulator
from tests import emulated
from tests.emulated import KEY, SMALL, generate, pictures

classic, dalle = emulated.classic, emulated.dalle


def test_pictures_come_back_as_the_knob_says(dalle: Emulator) -> None:
    body = {**SMALL, "n": 2}
    dalle.result = "mixed"
    assert [sorted(item) for item in generate(dalle, body).json()["data"]] == [["b64_json"], ["url"]]
    dalle.result = "relative_url"
    assert generate(dalle, body).json()["data"][0]["url"].startswith("/pictures/")
    dalle.result, dalle.picture_origin = "url", "http://localhost:1"
    assert generate(dalle, body).json()["data"][0]["url"].startswith("http://localhost:1/pictures/")


def test_a_relative_url_needs_the_key_and_an_absolute_one_does_not(dalle: Emulator) -> None:
    dalle.result = "relative_url"
    relative = dalle.origin + generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.result = "url"
    absolute = generate(dalle, SMALL).json()["data"][0]["url"]
    assert requests.get(relative, timeout=5).status_code == 401
    assert requests.get(relative, headers=KEY, timeout=5).status_code == 200
    assert requests.get(absolute, timeout=5).status_code == 200


def test_size_format_transparency_and_number_can_differ_from_what_was_asked(dalle: Emulator) -> None:
    dalle.answer_size, dalle.picture_format, dalle.fewer_by = (300, 200), "JPEG", 1
    drawn = pictures(generate(dalle, {**SMALL, "n": 3}))
    assert [(p.size, p.format) for p in drawn] == [((300, 200), "JPEG")] * 2
    dalle.picture_format, dalle.transparent, dalle.fewer_by = None, True, 0
    assert pictures(generate(dalle, SMALL))[0].getchannel("A").getextrema() == (0, 255)


def test_answers_and_downloads_take_their_time(dalle: Emulator) -> None:
    # More than is measured: Windows' clock counts in steps of 16 ms.
    dalle.delay_s, dalle.picture_delay_s, dalle.result = 0.25, [0.0, 0.25], "url"
    generate_started = time.monotonic()
    urls = [item["url"] for item in generate(dalle, {**SMALL, "n": 2}).json()["data"]]
    assert time.monotonic() - generate_started >= 0.2
    waits = []
    for url in urls:
        started = time.monotonic()
        requests.get(url, timeout=5)
        waits.append(time.monotonic() - started)
    assert waits[0] < 0.2 <= waits[1]


def test_delays_of_several_calls_overlap(dalle: Emulator) -> None:
    dalle.delay_s = 0.4
    threads = [threading.Thread(target=generate, args=(dalle, SMALL)) for _ in range(4)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 1.2
    assert max(post.started for post in dalle.posts) < min(post.answered or 0 for post in dalle.posts)


def test_prompt_size_and_index_change_the_picture_and_nothing_else_does(dalle: Emulator) -> None:
    first, second = pictures(generate(dalle, {**SMALL, "n": 2}))
    again = pictures(generate(dalle, {**SMALL, "n": 2}))[0]
    other = pictures(generate(dalle, {**SMALL, "n": 2, "prompt": "a castle"}))[0]
    assert first.tobytes() == again.tobytes()
    assert len({first.tobytes(), second.tobytes(), other.tobytes()}) == 3


def test_a_picture_has_a_caption_of_its_request(dalle: Emulator) -> None:
    one = pictures(generate(dalle, {**SMALL, "n": 1}))[0]
    of_two = pictures(generate(dalle, {**SMALL, "n": 2}))[0]
    above, below = (0, 0, 256, 200), (0, 200, 256, 256)
    assert one.crop(above).tobytes() == of_two.crop(above).tobytes()
    assert one.crop(below).tobytes() != of_two.crop(below).tobytes()


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d", "<script>&"])
def test_any_prompt_can_be_drawn(dalle: Emulator, prompt: str) -> None:
    assert len(pictures(generate(dalle, {**SMALL, "prompt": prompt}))) == 1
