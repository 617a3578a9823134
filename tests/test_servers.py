"""Each server's own ways, kept to by the node: every kind of server that the emulator can play."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle2 import comfyui
from dalle2.errors import Charge, StatusError
from dalle2.nodes import OpenAIDalle2
from development.emulator import Emulator
from tests.loopback import KEY, Node
from tests.pictures import loaded, noise

GPT = {"model": "gpt-image-2", "size": "1024x1024", "quality": "low"}
CLASSIC = {"model": "dall-e-2", "size": "256x256", "response_format": "b64_json"}
BEARER = {"authorization": f"Bearer {KEY}"}
LOGIN = "login-token"


@dataclass(frozen=True)
class Server:
    """What a server is sent for images of 256x256: `fields` besides prompt and n, and `headers` with the key.

    `mask_field` is the name of an edit's mask, `transparent` whether the image of an edit has a hole where to edit.
    `models` is what it has, `settings` what its user sets besides address and key.
    """

    fields: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    mask_field: str = "mask"
    transparent: bool = True
    models: tuple[str, ...] | None = None
    settings: dict[str, str] = field(default_factory=dict)


DEPLOYMENT = {"OPENAI_API_VERSION": "preview", "DALLE2_MODEL": "my-gpt-image"}
SERVERS = {
    "openai": Server(GPT, BEARER, transparent=False),
    "comfy": Server(GPT, {"authorization": f"Bearer {LOGIN}"}, transparent=False),
    "azure": Server({**GPT, "model": "my-gpt-image"}, {"api-key": KEY}, transparent=False, settings=DEPLOYMENT),
    "litellm": Server(CLASSIC, BEARER),
    "localai": Server(CLASSIC),
    "sdcpp": Server(CLASSIC),
    "sglang": Server(CLASSIC),
    "vllm": Server({**CLASSIC, "model": "Qwen/Qwen-Image"}, mask_field="mask_image", transparent=False),
    "xinference": Server({**CLASSIC, "model": "sd-turbo"}, models=("sd-turbo",), transparent=False),
}

Open = Callable[[str], Emulator]


@pytest.fixture
def server(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Starts an emulator of that name, and leads the node to it as its user would."""

    def start(name: str) -> Emulator:
        emulator = stack.enter_context(Emulator(name, api_key=KEY, models=SERVERS[name].models))
        if name == "comfy":
            monkeypatch.setattr(comfyui, "comfy_api_base", lambda: emulator.origin)
        else:
            node.use(emulator, key=KEY if SERVERS[name].headers else None)
        for variable, value in SERVERS[name].settings.items():
            node.set(variable, value)
        return emulator

    with ExitStack() as stack:
        yield start


def draw(node: Node, name: str, **inputs: Any) -> Tensor:
    """The images of a call, with an account at Comfy.org where that is needed."""
    if name != "comfy":
        return node.draw(**inputs)
    return OpenAIDalle2().api_call("a quiet harbour", size="256x256", auth_token=LOGIN, **inputs)[0]


def photo() -> Tensor:
    return loaded(noise(1, 256, 256, 3))


def left_half() -> Tensor:
    mask = torch.zeros(1, 256, 256)
    mask[:, :, :128] = 1
    return mask


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_is_sent_what_it_knows_and_makes_images(name: str, node: Node, server: Open) -> None:
    emulator = server(name)
    images = draw(node, name, n=2)
    assert images.shape == (2, 256, 256, 3)
    assert not torch.equal(images[0], images[1])
    last = emulator.posts[-1]
    assert last.fields == {"prompt": "a quiet harbour", "n": 2, **SERVERS[name].fields}
    keys = ("authorization", "api-key", "x-api-key")
    assert {key: last.headers[key] for key in keys if key in last.headers} == SERVERS[name].headers
    assert last.query == ({"api-version": "preview"} if name == "azure" else {})
    assert emulator.paid_pictures == 2


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "localai"])  # which can only make new images
def test_every_server_edits_with_the_same_mask(name: str, node: Node, server: Open) -> None:
    emulator = server(name)
    emulator.answer_size = (256, 256)
    image = photo()
    edited = draw(node, name, image=image, mask=left_half())
    assert torch.equal(edited[:, :, 128:], image[:, :, 128:])
    assert not torch.isclose(edited[:, :, :128], image[:, :, :128], atol=0.02).all(dim=-1).float().mean() > 0.5
    last = emulator.posts[-1]
    assert last.fields == {"prompt": "a quiet harbour", "n": "1", **SERVERS[name].fields}
    assert [(part.field, part.filename, part.content_type) for part in last.files] == [
        ("image", "image.png", "image/png"),
        (SERVERS[name].mask_field, "mask.png", "image/png"),
    ]
    sent = Image.open(BytesIO(last.file("image").data)).convert("RGBA")
    assert sent.getchannel("A").getextrema() == ((0, 255) if SERVERS[name].transparent else (255, 255))


@pytest.mark.parametrize("name", ["openai", "azure", "litellm", "vllm", "xinference"])
def test_a_chosen_model_that_is_missing_is_never_replaced(name: str, node: Node) -> None:
    with Emulator(name, api_key=KEY, models=["flux"]) as emulator:
        node.use(emulator)
        for variable, value in SERVERS[name].settings.items():
            node.set(variable, value)
        node.set("DALLE2_MODEL", "gpt-image-0")
        with pytest.raises(StatusError, match="Set DALLE2_MODEL to a model that it has") as caught:
            node.draw()
        assert "Asked for: gpt-image-0" in str(caught.value) and caught.value.charge is Charge.NO
        assert [request.fields["model"] for request in emulator.posts] == ["gpt-image-0"]
        assert emulator.paid_pictures == 0


@pytest.mark.parametrize("name", ["openai", "litellm"])
def test_a_missing_key_is_an_error_that_names_the_setting(name: str, node: Node) -> None:
    with Emulator(name, api_key=KEY) as emulator:
        node.use(emulator, key=None)
        with pytest.raises(StatusError, match="Set OPENAI_API_KEY to a key that was made for this server"):
            node.draw()
    assert len(emulator.posts) == 1
