"""The nodes called from plain Python and as ComfyUI calls them, against the emulator."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle2 import nodes
from dalle2.nodes import NODE_CLASS_MAPPINGS, DalleNode, OpenAIDalle2, OpenAIDalle3
from development.emulator import Emulator
from tests.loopback import KEY, Loopback, Node, answering, encoded, http
from tests.pictures import file_of

BLANK = "Field 'prompt' cannot be empty."


@pytest.fixture
def emulator(node: Node) -> Iterator[Emulator]:
    with Emulator(api_key=KEY) as emulator:
        node.use(emulator)
        yield emulator


def test_comfyui_manager_finds_every_node_in_the_text() -> None:
    """It runs nothing, and takes from each mapping what stands in quotation marks before a colon."""
    text = Path(nodes.__file__).read_text(encoding="utf-8")
    mappings = re.findall(r"NODE_CLASS_MAPPINGS = {([^}]*)}", text)
    assert set(re.findall(r'"([^"]*)"\s*:', " ".join(mappings))) == set(NODE_CLASS_MAPPINGS)


COMMON: dict[str, Any] = {"auth_token": None, "comfy_api_key": None, "unique_id": None, "seed": 0, "size": "1024x1024"}


@pytest.mark.parametrize(
    ("node", "own"),
    [
        (OpenAIDalle2, {"image": None, "mask": None, "n": 1}),
        (OpenAIDalle3, {"style": "natural", "quality": "standard"}),
    ],
)
def test_api_call_has_the_signature_of_the_removed_node(node: type[DalleNode], own: dict[str, Any]) -> None:
    assert inspect.iscoroutinefunction(getattr(node, node.FUNCTION))
    parameters = inspect.signature(node.api_call).parameters  # type: ignore[attr-defined]
    assert list(parameters)[:3] == ["self", "prompt", "seed"]
    defaults = {name: parameter.default for name, parameter in list(parameters.items())[2:]}
    assert defaults == {**COMMON, **own}


def test_numpy_s_whole_numbers_are_whole_numbers(emulator: Emulator) -> None:
    (images,) = OpenAIDalle2().api_call("a lighthouse", n=np.int64(2), size="256x256")  # type: ignore[arg-type]
    assert images.shape[0] == 2
    assert emulator.posts[-1].fields["n"] == 2


@pytest.mark.parametrize("kind", [OpenAIDalle2, OpenAIDalle3])
def test_comfyui_gets_the_images_and_the_line_about_them(
    kind: type[DalleNode], emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openai-dalle")
    returned = asyncio.run(kind().run(prompt="a lighthouse", unique_id="1"))
    (line,) = returned["ui"]["openai_dalle"]
    assert re.fullmatch(r"1 picture · gpt-image-2 · \d+\.\d s", line)
    assert returned.keys() == {"ui", "result"}
    assert returned["result"][0].shape == (1, 1024, 1024, 3)
    assert caplog.messages == [f"{kind.__name__}: {line}"]


MILLION = "x" * 10**6
DALLE_2_REFUSES: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, BLANK),
    ({"prompt": " \n\u200b\ufeff\u2060\x00"}, BLANK),
    ({"prompt": None}, "Field 'prompt' is of the type NoneType; connect a text."),
    ({"prompt": "a caf\udce9"}, "The prompt contains a broken character"),
    ({"size": "512x256"}, "Field 'size' is '512x256'; it must be one of 256x256, 512x512, 1024x1024."),
    ({"size": MILLION}, "Field 'size' is 'xxx"),
    ({"n": 0}, "Field 'n' is 0; it must be a whole number from 1 to 8."),
    ({"n": 9}, "Field 'n' is 9"),
    ({"n": 2.0}, "Field 'n' is 2.0"),
    ({"n": MILLION}, "Field 'n' is 'xxx"),
    ({"n": True}, "Field 'n' is True"),
    ({"n": np.True_}, "Field 'n' is np.True_"),
    ({"image": torch.ones(1, 32, 32, 3)}, "requires an image AND a mask"),
]
DALLE_3_REFUSES: list[tuple[dict[str, Any], str]] = [
    ({"quality": "high"}, "Field 'quality' is 'high'; it must be one of standard, hd. Nothing was charged."),
    ({"style": ["vivid"]}, "Field 'style' is ['vivid']; it must be one of natural, vivid. Nothing was charged."),
    ({"size": "256x256"}, "Field 'size' is '256x256'; it must be one of 1024x1024, 1024x1792, 1792x1024. Nothing was"),
    ({"prompt": " "}, BLANK),
]


@pytest.mark.parametrize(
    ("call", "inputs", "message"),
    [
        *((OpenAIDalle2().api_call, *row) for row in DALLE_2_REFUSES),
        *((OpenAIDalle3().api_call, *row) for row in DALLE_3_REFUSES),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    call: Callable[..., object],
    inputs: dict[str, Any],
    message: str,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DALLE2_MODEL", "dall-e-2")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(**{"prompt": "x", **inputs})
    assert len(str(caught.value)) < 300
    assert not emulator.requests


def test_the_editor_can_ask_what_the_node_is_while_a_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE2_BACKEND", "nonsense")
    assert OpenAIDalle2.API_NODE is False


@pytest.mark.parametrize(("prompt", "verdict"), [("a", True), (None, True), ("", BLANK), ("\u200b", BLANK)])
def test_a_blank_prompt_does_not_validate_and_a_linked_one_does(prompt: str | None, verdict: bool | str) -> None:
    assert OpenAIDalle2.VALIDATE_INPUTS(prompt) == verdict


def test_the_node_runs_again_when_what_is_set_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_changed_by(variable: str, value: str, node: type[DalleNode] = OpenAIDalle2) -> bool:
        before = node.IS_CHANGED()
        monkeypatch.setenv(variable, value)
        return node.IS_CHANGED(prompt="x") != before

    assert is_changed_by("OPENAI_API_KEY", "sk-very-secret")  # another backend
    assert not is_changed_by("OPENAI_API_KEY", "sk-another")  # so that it never holds the key
    assert is_changed_by("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert not is_changed_by("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert is_changed_by("DALLE2_MODEL", "sd-turbo")
    assert is_changed_by("DALLE2_QUALITY", "high")
    assert not is_changed_by("DALLE2_QUALITY", "medium", OpenAIDalle3)  # it has an input for it
    monkeypatch.setenv("DALLE2_QUALITY", "nonsense")
    assert OpenAIDalle2.IS_CHANGED() == ""


def draw(**inputs: Any) -> Tensor:
    """The image of one call of OpenAIDalle3."""
    return OpenAIDalle3().api_call("a moonlit sea", **inputs)[0]


def test_old_inputs_become_sizes_qualities_and_words_of_today(emulator: Emulator) -> None:
    assert draw(quality="hd", size="1024x1792").shape == (1, 1792, 1024, 3)
    assert draw(size="1792x1024", style="vivid").shape == (1, 1024, 1792, 3)
    first, second = [record for record in emulator.posts if record.billed]
    usual = {"model": "gpt-image-2", "prompt": "a moonlit sea", "n": 1}
    assert first.fields == {**usual, "size": "1024x1792", "quality": "medium"}
    assert second.fields["quality"] == "low"
    assert second.fields["prompt"] == "a moonlit sea\n\nLean towards hyper-real and dramatic images."


def test_a_server_that_still_has_dall_e_3_is_asked_for_it_first(node: Node) -> None:
    asked = {"quality": "hd", "style": "vivid", "size": "1024x1792"}
    with Emulator("litellm", api_key=KEY, models=("dall-e-2", "dall-e-3", "gpt-image-2")) as emulator:
        node.use(emulator)
        assert draw(**asked).shape == (1, 1792, 1024, 3)
    usual = {"model": "dall-e-3", "prompt": "a moonlit sea", "n": 1, "response_format": "b64_json"}
    assert [record.fields for record in emulator.posts] == [{**usual, **asked}]


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
