"""The node called from plain Python, against the emulator."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dalle2.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, OpenAIDalle2
from development.emulator import Emulator
from tests.stage import KEY

IMAGE, MASK = torch.full((1, 32, 32, 3), 0.5), torch.ones(1, 32, 32)


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


@pytest.mark.usefixtures("emulator")
def test_a_prompt_alone_returns_one_image_tensor() -> None:
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
        ({"prompt": " \n"}, "Field 'prompt' cannot be empty."),
        ({"prompt": None}, "Field 'prompt' cannot be empty."),
        ({"prompt": ["x"]}, "Field 'prompt' cannot be empty."),
        ({"prompt": "a caf\udce9"}, "Field 'prompt' holds half a character"),
        ({"prompt": "x" * 32_001}, "The prompt has 32001 characters"),
        ({"size": "512x256"}, "Field 'size' is '512x256'"),
        ({"n": 0}, "Field 'n' is 0"),
        ({"n": 9}, "Field 'n' is 9"),
        ({"n": 2.0}, "Field 'n' is 2.0; it must be a whole number"),
        ({"n": "2"}, "Field 'n' is '2'"),
        ({"n": None}, "Field 'n' is None"),
        ({"n": True}, "Field 'n' is True"),
        ({"image": IMAGE}, "requires an image AND a mask"),
        ({"mask": MASK}, "requires an image AND a mask"),
        ({"image": IMAGE, "mask": torch.zeros(1, 64, 64)}, "The mask is empty"),
        ({"image": IMAGE, "mask": torch.zeros(1, 32, 32)}, "The mask is empty.*MaskEditor"),
        ({"image": IMAGE, "mask": torch.ones(1, 16, 16)}, "Mask and Image must be the same size"),
        ({"image": IMAGE[:, :8, :8], "mask": MASK[:, :8, :8]}, "too small"),
        ({"image": IMAGE.expand(3, -1, -1, -1), "mask": MASK.expand(2, -1, -1)}, "3 images and 2 masks"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    emulator: Emulator, inputs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE2_MODEL", "gpt-image-2")
    with pytest.raises(ValueError, match=message):
        OpenAIDalle2().api_call(**{"prompt": "x", **inputs})
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
