"""The node OpenAIDalle3 in plain Python: how its inputs are said to servers of today."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from dalle2.nodes import OpenAIDalle2, OpenAIDalle3
from development.emulator import Emulator
from tests.loopback import KEY, Loopback, Node, answering, encoded, http
from tests.pictures import file_of

GPT_IMAGE_1_SIZES = ("gpt-image-1.5",)  # a model that has three sizes only


def draw(**inputs: Any) -> Tensor:
    return OpenAIDalle3().api_call("a moonlit sea", **inputs)[0]


def test_old_inputs_become_sizes_and_qualities_of_today(node: Node) -> None:
    with Emulator(api_key=KEY) as emulator:
        node.use(emulator)
        assert draw(quality="hd", size="1024x1792").shape == (1, 1792, 1024, 3)
        assert draw(size="1792x1024").shape == (1, 1024, 1792, 3)
    first, second = [record for record in emulator.posts if record.billed]
    assert first.fields == {
        "model": "gpt-image-2",
        "prompt": "a moonlit sea",
        "n": 1,
        "size": "1024x1792",
        "quality": "medium",
    }
    assert second.fields["quality"] == "low"


def test_vivid_is_said_in_the_prompt(node: Node) -> None:
    with Emulator(api_key=KEY) as emulator:
        node.use(emulator)
        draw(style="vivid")
    assert emulator.posts[-1].fields["prompt"] == "a moonlit sea\n\nLean towards hyper-real and dramatic images."


def test_a_server_that_still_has_dall_e_3_is_asked_for_it_first(node: Node) -> None:
    with Emulator("litellm", api_key=KEY, models=("dall-e-2", "dall-e-3", "gpt-image-2")) as emulator:
        node.use(emulator)
        assert draw(quality="hd", style="vivid", size="1024x1792").shape == (1, 1792, 1024, 3)
    assert [record.fields for record in emulator.posts] == [
        {
            "model": "dall-e-3",
            "prompt": "a moonlit sea",
            "n": 1,
            "size": "1024x1792",
            "quality": "hd",
            "style": "vivid",
            "response_format": "b64_json",
        }
    ]


def test_a_refused_size_is_replaced_by_the_nearest_and_cropped(node: Node) -> None:
    with Emulator(api_key=KEY, models=GPT_IMAGE_1_SIZES) as emulator:
        node.use(emulator)
        node.set("DALLE2_MODEL", "gpt-image-1.5")
        assert draw(size="1024x1792").shape == (1, 1792, 1024, 3)
    assert [(record.fields["size"], record.billed) for record in emulator.posts[-2:]] == [
        ("1024x1792", 0),
        ("1024x1536", 1),
    ]


@pytest.mark.parametrize("is_tall", [False, True])
@pytest.mark.parametrize("side", [100, 1024, 1200])
def test_an_image_of_another_shape_is_cropped_never_squeezed(side: int, is_tall: bool, node: Node) -> None:
    """Of three squares side by side, the middle one is left, in the size that was asked for."""
    squares = Image.new("RGB", (3 * side, side), "red")
    squares.paste((0, 255, 0), (side, 0, 2 * side, side))
    if is_tall:
        squares = squares.transpose(Image.Transpose.ROTATE_90)
    with Loopback(answering(http({"data": [encoded(file_of(squares))]}))) as server:
        node.use(f"{server.origin}/v1")
        image = draw()
    assert image.shape == (1, 1024, 1024, 3)
    middle = image[:, 40:-40, 40:-40]  # at its edges the neighbours shine through
    assert (middle[..., 1] == 1).all() and (middle[..., 0] == 0).all()


def test_what_replaced_one_node_s_model_does_not_decide_for_the_other(node: Node) -> None:
    with Emulator("litellm", api_key=KEY, models=("dall-e-2", "dall-e-3")) as emulator:
        node.use(emulator)
        OpenAIDalle2().api_call("a moonlit sea", size="256x256")
        draw()
    assert [record.fields["model"] for record in emulator.posts] == ["dall-e-2", "dall-e-3"]
