"""The node called from plain Python, against the emulator."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dalle2.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, OpenAIDalle2
from emulator import Emulator
from tests.stage import KEY


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(api_key=KEY) as emulator:
        monkeypatch.setenv("OPENAI_BASE_URL", emulator.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield emulator


def test_the_node_is_registered_under_its_old_id() -> None:
    assert NODE_CLASS_MAPPINGS == {"OpenAIDalle2": OpenAIDalle2}
    assert NODE_DISPLAY_NAME_MAPPINGS == {"OpenAIDalle2": "OpenAI DALL·E 2"}


def test_the_function_is_a_coroutine_and_api_call_has_the_signature_of_old() -> None:
    assert inspect.iscoroutinefunction(getattr(OpenAIDalle2, OpenAIDalle2.FUNCTION))
    parameters = inspect.signature(OpenAIDalle2.api_call).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert defaults == {
        "prompt": inspect.Parameter.empty,
        "seed": 0,
        "image": None,
        "mask": None,
        "n": 1,
        "size": "1024x1024",
        "auth_token": None,
        "comfy_api_key": None,
        "unique_id": None,
    }


def test_a_prompt_alone_returns_one_image_tensor(emulator: Emulator) -> None:
    (image,) = OpenAIDalle2().api_call(prompt="a lighthouse")
    assert (image.shape, image.dtype) == ((1, 1024, 1024, 3), torch.float32)
    assert 0 <= image.min() and image.max() <= 1


def test_an_image_and_a_mask_return_the_image_with_new_paint(emulator: Emulator) -> None:
    emulator.redraws = True
    image = torch.full((1, 256, 256, 3), 0.25)
    mask = torch.zeros(1, 256, 256)
    mask[:, 64:192, 64:192] = 1
    (edited,) = OpenAIDalle2().api_call("a hat", image=image, mask=mask, n=2, size="256x256")
    assert edited.shape == (2, 256, 256, 3)
    assert (edited[:, mask[0] == 0] == 0.25).all()
    assert (edited[:, mask[0] == 1] != 0.25).any(dim=-1).float().mean() > 0.9


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_the_seed_is_never_sent(emulator: Emulator, seed: int) -> None:
    OpenAIDalle2().api_call("a lighthouse", seed=seed, size="256x256")
    assert all("seed" not in call.fields for call in emulator.posts)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": " "}, "Field 'prompt' cannot be empty."),
        ({"prompt": None}, "Field 'prompt' cannot be empty."),
        ({"prompt": ["x"]}, "Field 'prompt' cannot be empty."),
        ({"prompt": "a caf\udce9"}, "Field 'prompt' holds half a character"),
        ({"prompt": "x", "size": "512x256"}, "Field 'size' is '512x256'"),
        ({"prompt": "x", "n": 0}, "Field 'n' is 0"),
        ({"prompt": "x", "n": 9}, "Field 'n' is 9"),
        ({"prompt": "x", "n": 2.0}, "Field 'n' is 2.0; it must be a whole number"),
        ({"prompt": "x", "n": "2"}, "Field 'n' is '2'"),
        ({"prompt": "x", "n": None}, "Field 'n' is None"),
        ({"prompt": "x", "n": True}, "Field 'n' is True"),
        ({"prompt": "x", "image": torch.zeros(1, 64, 64, 3)}, "requires an image AND a mask"),
        ({"prompt": "x", "mask": torch.zeros(1, 64, 64)}, "requires an image AND a mask"),
        ({"prompt": "x" * 32_001}, "The prompt has 32001 characters"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    emulator: Emulator, inputs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE2_MODEL", "gpt-image-2")
    with pytest.raises(ValueError, match=message):
        OpenAIDalle2().api_call(**inputs)
    assert not emulator.requests


@pytest.mark.parametrize(
    ("variables", "uses_account"),
    [
        ({}, True),
        ({"OPENAI_API_KEY": "sk-x"}, False),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, False),
        ({"OPENAI_API_KEY": "sk-x", "DALLE2_BACKEND": "comfy"}, True),
        ({"DALLE2_BACKEND": "openai"}, False),
        ({"DALLE2_BACKEND": "nonsense"}, False),
    ],
)
def test_the_node_is_a_partner_node_exactly_while_the_account_pays(
    variables: dict[str, str], uses_account: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert OpenAIDalle2.API_NODE is uses_account


@pytest.mark.parametrize(("prompt", "verdict"), [("a", True), (None, True), ("", "Field 'prompt' cannot be empty.")])
def test_a_blank_prompt_does_not_validate_and_a_linked_one_does(prompt: str | None, verdict: bool | str) -> None:
    assert OpenAIDalle2.VALIDATE_INPUTS(prompt) == verdict


def test_a_prompt_that_is_missing_is_left_to_comfyui_to_complain_of() -> None:
    assert OpenAIDalle2.VALIDATE_INPUTS() is True
