"""DALL·E 2's promises, kept on every kind of server that the emulator can play."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle2 import host
from dalle2.errors import NOT_CHARGED, StatusError, UnusableAnswer
from development.emulator import FLAVOURS, Emulator, Fault, RequestRecord
from tests.loopback import KEY, Loopback, Node, answering, encoded, http
from tests.pictures import file_of, loaded, noise, png

CLASSIC = {"model": "dall-e-2", "size": "256x256", "response_format": "b64_json"}
GPT = {"model": "gpt-image-2", "size": "1024x1024", "quality": "low"}

# The fields, besides prompt and n, that each server is sent for pictures of 256x256, and the names of an edit's files.
SERVERS: dict[str, tuple[dict[str, str], set[str]]] = {
    "openai": (GPT, {"image", "mask"}),
    "comfy": (GPT, {"image", "mask"}),
    "azure": ({**GPT, "model": "my-gpt-image"}, {"image", "mask"}),
    "litellm": (CLASSIC, {"image", "mask"}),
    "sdcpp": (CLASSIC, {"image", "mask"}),
    "sglang": (CLASSIC, {"image", "mask"}),
    "xinference": (CLASSIC, {"image", "mask"}),
    "vllm": ({"size": "256x256", "response_format": "b64_json"}, {"image", "mask_image"}),
    "localai": (CLASSIC, set()),
}
# LocalAI has no route for edits.
EDITORS = [name for name in SERVERS if name != "localai"]

Open = Callable[[str], Emulator]


@pytest.fixture(scope="module")
def house() -> Iterator[dict[str, Emulator]]:
    """The emulators that were started so far."""
    running: dict[str, Emulator] = {}
    yield running
    for emulator in running.values():
        emulator.stop()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


@pytest.fixture
def server(house: dict[str, Emulator], node: Node, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Starts an emulator of that name, and leads the node to it as its user would."""

    def start(name: str) -> Emulator:
        if name not in house:
            house[name] = Emulator(name, api_key=KEY)
            house[name].start()
        emulator = house[name]
        emulator.reset()
        if name == "comfy":
            monkeypatch.setattr(host, "comfy_api_base", lambda: emulator.comfy_base)
        else:
            node.use(emulator, key=None if FLAVOURS[name].auth == "none" else KEY)
        if name == "azure":
            node.set("OPENAI_API_VERSION", "preview")
            node.set("DALLE2_MODEL", "my-gpt-image")
        return emulator

    return start


def draw(node: Node, name: str, **inputs: Any) -> Tensor:
    """A call, with an account at Comfy.org where that is needed."""
    account = {"auth_token": "login-token"} if name == "comfy" else {}
    return node.draw(**account, **inputs)


def photo(height: int = 256, width: int = 256, *, batch: int = 1, channels: int = 3) -> Tensor:
    """A noisy image `[B,H,W,C]` of values that 8 bits can hold."""
    return loaded(noise(batch, height, width, channels, seed=height * width + batch))


def left_half(height: int = 256, width: int = 256) -> Tensor:
    """A mask `[1,H,W]` of the left half."""
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def upload(request: RequestRecord, field: str) -> Image.Image:
    return Image.open(BytesIO(request.file(field).data))


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_draws_and_is_sent_what_it_knows(name: str, node: Node, server: Open) -> None:
    emulator = server(name)
    pictures = draw(node, name, n=2)
    assert pictures.shape == (2, 256, 256, 3)
    assert not torch.equal(pictures[0], pictures[1])
    last = emulator.posts[-1]
    assert last.fields == {"prompt": "a quiet harbour", "n": 2, **SERVERS[name][0]}
    assert last.status == 200
    assert emulator.paid_pictures == 2


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("behaviour", [None, "ignore_mask", "redraws"])
def test_every_server_s_edit_keeps_what_is_not_masked(
    name: str, behaviour: str | None, node: Node, server: Open
) -> None:
    emulator = server(name)
    emulator.answer_size = (256, 256)
    if behaviour:
        setattr(emulator, behaviour, True)
    image = photo()
    picture = draw(node, name, image=image, mask=left_half())
    assert picture.shape == (1, 256, 256, 3)
    assert torch.equal(picture[:, :, 128:], image[:, :, 128:])
    assert not torch.isclose(picture[:, :, :128], image[:, :, :128], atol=0.02).all(dim=-1).float().mean() > 0.5
    assert {part.field for part in emulator.posts[-1].files} == SERVERS[name][1]


@pytest.mark.parametrize("name", EDITORS)
def test_one_mask_serves_every_server(name: str, node: Node, server: Open) -> None:
    emulator = server(name)
    draw(node, name, image=photo(), mask=left_half())
    mask_field = (SERVERS[name][1] - {"image"}).pop()
    mask = upload(emulator.posts[-1], mask_field)
    image = upload(emulator.posts[-1], "image")
    assert (mask.mode, mask.size) == ("RGBA", image.size)
    assert (mask.getpixel((10, 10)), mask.getpixel((200, 10))) == ((255, 255, 255, 0), (0, 0, 0, 255))
    alpha = image.convert("RGBA").getchannel("A").getextrema()
    assert alpha == ((255, 255) if "gpt" in SERVERS[name][0].get("model", "") else (0, 255))


def test_localai_cannot_edit_and_the_error_says_so(node: Node, server: Open) -> None:
    emulator = server("localai")
    with pytest.raises(StatusError, match="whether this server can edit pictures at all") as caught:
        node.draw(image=photo(), mask=left_half())
    assert NOT_CHARGED in str(caught.value)
    assert len(emulator.posts) == 1


@pytest.mark.parametrize("size", [256, 512, 1024])
@pytest.mark.parametrize("name", ["openai", "sdcpp"])
def test_the_size_asked_for_is_the_size_that_comes(name: str, size: int, node: Node, server: Open) -> None:
    server(name)
    assert node.draw(size=f"{size}x{size}").shape == (1, size, size, 3)
    assert node.draw(size=f"{size}x{size}", image=photo(64, 64), mask=left_half(64, 64)).shape == (1, size, size, 3)


@pytest.mark.parametrize("answer_size", [(300, 200), (64, 64), (1024, 512)])
def test_a_server_that_answers_in_another_size_is_resized(
    answer_size: tuple[int, int], node: Node, server: Open
) -> None:
    server("sdcpp").answer_size = answer_size
    assert node.draw(n=2).shape == (2, 256, 256, 3)


def test_pictures_of_different_sizes_and_kinds_end_up_in_one_batch(node: Node) -> None:
    pictures = [
        encoded(png((64, 64))),
        encoded(png((300, 100), 128, "L")),
        encoded(png((256, 256), (0, 0, 255, 0), "RGBA")),
    ]
    with Loopback(answering(http({"data": pictures}))) as there:
        node.use(there.origin)
        batch = node.draw(n=3)
    assert batch.shape == (3, 256, 256, 4)
    assert batch[:2, ..., 3].min() == 1
    assert batch[2, ..., 3].max() == 0


def test_smaller_sizes_are_scaled_down_without_aliasing(node: Node) -> None:
    # Stripes of one pixel: whoever picks pixels gets black or white, whoever averages gets grey.
    stripes = Image.fromarray((np.indices((1024, 1024))[1] % 2 * 255).astype(np.uint8))
    with Loopback(answering(http({"data": [encoded(file_of(stripes))]}))) as there:
        node.use(there.origin)
        picture = node.draw()
    assert (picture - 0.5).abs().max() < 0.05


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(100, 200, (128, 256)), (200, 100, (256, 128)), (256, 171, (256, 171))]
)
@pytest.mark.parametrize("name", ["openai", "sdcpp"])
def test_an_image_that_is_not_square_keeps_its_shape(
    name: str, height: int, width: int, shape: tuple[int, int], node: Node, server: Open
) -> None:
    emulator = server(name)
    emulator.redraws = True
    image = photo(height, width)
    picture = node.draw(image=image, mask=left_half(height, width))
    assert tuple(picture.shape[1:3]) == shape
    sent = upload(emulator.posts[-1], "image")
    assert sent.width == sent.height
    kept = picture[:, :, shape[1] // 2 + 8 :]
    if (height, width) == shape:
        assert torch.equal(kept, image[:, :, shape[1] // 2 + 8 :])
    else:
        smooth = torch.nn.functional.interpolate(image.movedim(-1, 1), shape, mode="bilinear").movedim(1, -1)
        assert (kept - smooth[:, :, shape[1] // 2 + 8 :]).abs().mean() < 0.1


def test_a_soft_mask_blends_by_its_value(node: Node) -> None:
    mask = torch.linspace(0, 1, 256).expand(1, 256, 256)
    with Loopback(answering(http({"data": [encoded(png((256, 256), "white"))]}))) as there:
        node.use(there.origin)
        picture = node.draw(image=torch.zeros(1, 256, 256, 3), mask=mask)
    assert torch.allclose(picture[0, ..., 0], mask[0], atol=1e-6)
    alpha = upload_of(there, "mask").getchannel("A")
    assert (alpha.getpixel((0, 0)), alpha.getpixel((1, 0))) == (255, 0)


def upload_of(there: Loopback, field: str) -> Image.Image:
    """A file of the last form that a raw server got."""
    body = there.requests[-1]
    start = body.index(b"\x89PNG", body.index(f'name="{field}"'.encode()))
    return Image.open(BytesIO(body[start:]))


@pytest.mark.parametrize("masks", [1, 5])
def test_a_batch_of_images_is_one_call_each_and_comes_in_order(masks: int, node: Node, server: Open) -> None:
    emulator = server("sdcpp")
    emulator.answer_size = (64, 64)
    images = photo(batch=5)
    pictures = node.draw(image=images, mask=left_half().expand(masks, -1, -1), n=2)
    assert pictures.shape == (10, 256, 256, 3)
    assert len(emulator.posts) == 5
    assert torch.equal(pictures[:, :, 128:], images.repeat_interleave(2, dim=0)[:, :, 128:])


def test_fewer_pictures_than_asked_for_are_used_and_told(node: Node, server: Open) -> None:
    server("openai").fewer_by = 2
    assert node.draw(n=5).shape[0] == 3
    assert node.text.startswith("3 of 5 pictures came by gpt-image-2, in place of dall-e-2")


def test_the_text_tells_who_stood_in(node: Node, server: Open) -> None:
    server("openai")
    node.draw()
    assert node.text.startswith("1 picture by gpt-image-2, in place of dall-e-2, ")


def test_the_next_retirement_is_survived_and_remembered(node: Node) -> None:
    with Emulator(api_key=KEY, models={"gpt-image-7": 7, "gpt-image-8": 8, "gpt-8": 9}) as emulator:
        emulator.answer_size = (64, 64)
        node.use(emulator)
        node.draw()
        assert "by gpt-image-8, in place of dall-e-2" in node.text
        tried = len(emulator.posts)
        assert [request.status for request in emulator.posts] == [404] * (tried - 1) + [200]
        node.draw()
        assert len(emulator.posts) == tried + 1
        assert emulator.paid_pictures == 2


@pytest.mark.parametrize("name", ["openai", "litellm", "azure", "vllm", "comfy"])
def test_a_model_that_was_named_and_is_not_there_is_told_and_never_replaced(name: str, node: Node) -> None:
    with Emulator(name, api_key=KEY, models=["flux"]) as emulator:
        node.use(emulator)
        if name == "azure":
            node.set("OPENAI_API_VERSION", "preview")
        node.set("DALLE2_MODEL", "gpt-image-0")
        with pytest.raises(StatusError, match="Set DALLE2_MODEL to a model that it has") as caught:
            node.draw()
        assert "Asked for: gpt-image-0" in str(caught.value)
        assert [request.fields["model"] for request in emulator.posts] == ["gpt-image-0"]
        assert emulator.paid_pictures == 0


@pytest.mark.parametrize("field", ["response_format", "quality"])
def test_a_field_that_is_refused_by_name_is_left_out_for_good(field: str, node: Node, server: Open) -> None:
    emulator = server("litellm")
    node.set("DALLE2_MODEL", "gpt-image-2" if field == "quality" else "dall-e-2")
    emulator.fail(Fault("unknown_parameter", param=field))
    node.draw()
    node.draw()
    assert [field in request.fields for request in emulator.posts] == [True, False, False]
    assert ("The server takes no quality, so DALLE2_QUALITY was not used" in node.text) == (field == "quality")


def test_a_transparent_picture_keeps_its_alpha_and_an_opaque_one_has_none(node: Node, server: Open) -> None:
    emulator = server("sdcpp")
    assert node.draw(n=2).shape[-1] == 3
    emulator.transparent = True
    pictures = node.draw(n=2)
    assert pictures.shape == (2, 256, 256, 4)
    assert pictures[..., 3].min() < 1


def test_an_image_with_alpha_can_be_edited(node: Node, server: Open) -> None:
    server("sdcpp")
    image = photo(channels=4)
    picture = node.draw(image=image, mask=left_half())
    assert picture.shape == (1, 256, 256, 4)
    assert torch.equal(picture[:, :, 128:], image[:, :, 128:])


@pytest.mark.parametrize("quality", ["low", "medium", "high", "auto"])
def test_quality_is_the_user_s_to_choose(quality: str, node: Node, server: Open) -> None:
    emulator = server("openai")
    emulator.answer_size = (64, 64)
    node.set("DALLE2_QUALITY", quality)
    node.draw()
    assert emulator.posts[-1].fields["quality"] == quality


def test_comfy_org_is_asked_with_the_account_and_tells_the_credits(node: Node, server: Open) -> None:
    emulator = server("comfy")
    emulator.result = "relative_url"
    draw(node, "comfy")
    assert node.text.endswith("credits")
    assert emulator.requests[0].path == "/proxy/openai/images/generations"
    assert {request.headers.get("authorization") for request in emulator.requests} == {"Bearer login-token"}
    emulator.clear()
    emulator.result = "url"
    node.draw(comfy_api_key="comfyui-key")
    assert [request.headers.get("x-api-key") for request in emulator.requests] == ["comfyui-key", None]


def test_azure_is_known_by_its_host_name(node: Node, server: Open) -> None:
    emulator = server("azure")
    node.set("OPENAI_API_VERSION", "")
    node.set("OPENAI_BASE_URL", "http://me.openai.azure.com/openai/v1")
    node.set("HTTP_PROXY", emulator.origin)  # leads that name here
    node.draw()
    request = emulator.posts[-1]
    assert (request.headers["api-key"], request.headers["host"]) == (KEY, "me.openai.azure.com")
    assert request.query == {"api-version": "preview"}
    assert "authorization" not in request.headers


def test_azure_is_known_by_a_setting(node: Node, server: Open) -> None:
    emulator = server("azure")
    node.set("OPENAI_API_VERSION", "2026-10-01")
    node.draw()
    assert emulator.posts[-1].query == {"api-version": "2026-10-01"}


@pytest.mark.parametrize("result", ["relative_url", "url", "mixed"])
def test_sglang_answers_with_addresses_of_jpegs(result: str, node: Node, server: Open) -> None:
    emulator = server("sglang")
    by_value = node.draw(n=2)
    emulator.result = result
    assert torch.equal(node.draw(n=2), by_value)
    assert emulator.picture_format is None
    fetched = [request.path for request in emulator.requests if request.method == "GET"]
    assert len(fetched) == (1 if result == "mixed" else 2)
    assert all(path.startswith("/v1/images/") for path in fetched)


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_comes_in_any_format(picture_format: str, node: Node, server: Open) -> None:
    server("sdcpp").picture_format = picture_format
    assert node.draw().shape == (1, 256, 256, 3)


def test_xinference_s_file_path_is_an_error_that_names_response_format(node: Node, server: Open) -> None:
    emulator = server("xinference")
    emulator.result = "file_path"
    with pytest.raises(UnusableAnswer, match="response_format=b64_json") as caught:
        node.draw()
    assert "/root/.xinference/image/" in str(caught.value)
    assert len(emulator.posts) == 1


@pytest.mark.parametrize("name", ["openai", "litellm"])
@pytest.mark.parametrize("key", [None, "sk-wrong-key"])
def test_a_missing_and_a_wrong_key_are_told_and_not_repeated(key: str | None, name: str, node: Node) -> None:
    with Emulator(name, api_key=KEY) as emulator:
        node.use(emulator, key=key)
        with pytest.raises(StatusError, match="OPENAI_API_KEY") as caught:
            node.draw()
    assert caught.value.status_code == 401
    assert "wrong-key" not in str(caught.value)
