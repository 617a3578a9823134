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


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


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


def test_an_image_of_another_shape_is_cropped_never_squeezed(node: Node) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste((0, 255, 0), (100, 0, 200, 100))  # the middle third
    with Loopback(answering(http({"data": [encoded(file_of(wide))]}))) as server:
        node.use(f"{server.origin}/v1")
        image = draw()
    assert image.shape == (1, 1024, 1024, 3)
    assert (image[..., 40:-40, 1] == 1).all() and (image[..., 40:-40, 0] == 0).all()


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({"quality": "low"}, "Field 'quality' is 'low'; it must be one of standard, hd."),
        ({"style": "dramatic"}, "Field 'style' is 'dramatic'; it must be one of natural, vivid."),
        ({"size": "512x512"}, "Field 'size' is '512x512'; it must be one of 1024x1024, 1024x1792, 1792x1024."),
    ],
)
def test_values_that_it_never_had_are_refused_unpaid(inputs: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match="Nothing was charged") as raised:
        draw(**inputs)
    assert complaint in str(raised.value)


def test_what_replaced_one_node_s_model_does_not_decide_for_the_other(node: Node) -> None:
    with Emulator("litellm", api_key=KEY, models=("dall-e-2", "dall-e-3")) as emulator:
        node.use(emulator)
        OpenAIDalle2().api_call("a moonlit sea", size="256x256")
        draw()
    assert [record.fields["model"] for record in emulator.posts] == ["dall-e-2", "dall-e-3"]
