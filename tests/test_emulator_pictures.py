"""What can be seen on the emulator's pictures."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageChops

from development.emulator import Emulator
from development.emulator.painter import draw_scene
from tests.emulated import GENERATION, SMALL, clean, edit, generate, half_mask, pictures, started

fixtures = (started, clean)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.asarray(ImageChops.difference(one, other)).mean())


def test_words_of_the_prompt_choose_the_scene() -> None:
    size = (256, 256)
    day, night, sunset = (np.asarray(draw_scene(f"sea, {word}", 0, size)) for word in ("noon", "moonlit", "sunset"))
    assert night.mean() < 90 < day.mean()
    assert sunset[120, :, 0].mean() > sunset[120, :, 2].mean() + 40  # the sky above the horizon is red
    mountains = np.asarray(draw_scene("mountains", 0, size))
    assert day[135:145].std(axis=1).mean() < mountains[135:145].std(axis=1).mean()  # a sea is level


def test_the_pictures_of_an_answer_differ_clearly_and_do_so_again(openai: Emulator) -> None:
    first = pictures(generate(openai, {**SMALL, "n": 4}))
    again = pictures(generate(openai, {**SMALL, "n": 4}))
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    assert all(difference(one, other) > 10 for one, other in pairwise(first))


def test_the_caption_tells_how_many_there_are(openai: Emulator) -> None:
    one, two = (pictures(generate(openai, {**SMALL, "n": n}))[0] for n in (1, 2))
    above, below = (0, 0, 256, 200), (0, 200, 256, 256)
    assert difference(one.crop(above), two.crop(above)) == 0 < difference(one.crop(below), two.crop(below))


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d", "\ud800"])
def test_any_prompt_can_be_drawn(openai: Emulator, prompt: str) -> None:
    assert len(pictures(generate(openai, {**SMALL, "prompt": prompt}))) == 1


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-2"])
def test_an_edit_shows_new_paint_and_all_but_dall_e_2_change_the_rest(openai: Emulator, model: str) -> None:
    openai.answer_size = (256, 256)
    fields = SMALL if model == "dall-e-2" else GENERATION
    original = pictures(generate(openai, fields))[0]
    file = io.BytesIO()
    original.convert("RGBA").save(file, "PNG")
    (drawn,) = pictures(edit(openai, file.getvalue(), half_mask((256, 256)), **fields))
    painted, kept = ((0, 0, 128, 256), (128, 0, 256, 256))
    assert difference(drawn.crop(painted), original.crop(painted)) > 10
    change = difference(drawn.crop(kept), original.crop(kept))
    assert change == 0 if model == "dall-e-2" else 1 < change < 20


def test_a_transparent_picture_has_no_sky(openai: Emulator) -> None:
    openai.transparent, openai.answer_size = True, (300, 200)
    (picture,) = pictures(generate(openai, SMALL))
    assert picture.size == (300, 200) and picture.getchannel("A").getextrema() == (0, 255)
