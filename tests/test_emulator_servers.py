"""The emulator in the part of each other server."""

from __future__ import annotations

import io
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import FLAVOURS, Emulator, Fault
from tests.emulated import KEY, PART, SMALL, edit, error, generate, half_mask, pictures, png


def any_call(server: str) -> tuple[dict[str, Any], dict[str, Any]]:
    headers = {"api-key": "sk-emulated"} if server == "azure" else KEY
    more: dict[str, Any] = {"headers": headers}
    if server == "azure":
        more["params"] = {"api-version": "preview"}
    model = {"azure": "my-gpt-image", "openai": "gpt-image-2", "comfy": "gpt-image-2", "vllm": "Qwen/Qwen-Image"}
    size = "1024x1024" if FLAVOURS[server].strict else "256x256"
    return {"model": model.get(server, "dall-e-2"), "prompt": "a lighthouse", "size": size}, more


RESULTS = {
    "localai": "http://127.0.0.1:",
    "sglang": "/v1/images/",
    "xinference": "/root/.xinference/image/",
}


@pytest.mark.parametrize("server", FLAVOURS)
def test_every_flavour_generates_as_its_servers_do(server: str) -> None:
    body, more = any_call(server)
    with Emulator(server) as emulator:
        response = generate(emulator, body, **more)
        assert response.status_code == 200, response.text
        item = response.json()["data"][0]
        if server in RESULTS:
            assert item["url"].startswith(RESULTS[server])
        else:
            assert pictures(response)[0].format == "PNG"


@pytest.mark.parametrize("server", ["litellm", "sdcpp", "localai", "vllm", "sglang", "xinference"])
def test_lenient_servers_take_what_openai_refuses(server: str) -> None:
    body, more = any_call(server)
    with Emulator(server) as emulator:
        extra = {"response_format": "b64_json", "seed": 5, "anything": {"goes": True}}
        drawn = pictures(generate(emulator, {**body, **extra}, **more))[0]
    assert drawn.format == ("JPEG" if server in ("sglang", "xinference") else "PNG")


def test_azure_wants_its_header_its_version_and_a_deployment() -> None:
    body, more = any_call("azure")
    with Emulator("azure") as emulator:
        bearer = generate(emulator, body, params=more["params"], headers=KEY)
        versionless = generate(emulator, body, headers=more["headers"])
        undeployed = generate(emulator, {**body, "model": "gpt-image-2"}, **more)
        emulator.fail(Fault("moderation"))
        filtered = generate(emulator, body, **more)
    assert emulator.base_url.endswith("/openai/v1")
    assert [r.status_code for r in (bearer, versionless, undeployed, filtered)] == [401, 404, 404, 400]
    assert error(undeployed)["code"] == "DeploymentNotFound"
    assert error(filtered)["code"] == "contentFilter"


def test_litellm_words_errors_its_own_way() -> None:
    with Emulator("litellm", models=("dall-e-2",)) as emulator:
        keyless = generate(emulator, SMALL, headers={})
        unknown = generate(emulator, {**SMALL, "model": "other"})
        files = [("image", PART), ("image[]", PART)]
        url = f"{emulator.base_url}/images/edits"
        both = requests.post(url, data=SMALL, files=files, headers=KEY, timeout=5)
    assert [(r.status_code, error(r)["code"]) for r in (keyless, unknown, both)] == [
        (401, "401"),
        (400, "400"),
        (422, "422"),
    ]
    assert "Invalid model name" in error(unknown)["message"]


def test_stable_diffusion_cpp_refuses_null_with_a_string() -> None:
    with Emulator("sdcpp") as emulator:
        null = generate(emulator, {**SMALL, "n": None})
        blank = generate(emulator, {**SMALL, "prompt": ""})
        url = generate(emulator, {**SMALL, "response_format": "url"})
    assert (null.status_code, null.json()["error"]) == (500, "server_error")
    assert blank.status_code == 400
    assert isinstance(blank.json()["error"], str)
    assert "b64_json" in url.json()["data"][0]


@pytest.mark.parametrize(
    ("server", "mask", "painted", "kept"),
    [
        ("sdcpp", half_mask((64, 64), alpha=False), True, True),
        ("sdcpp", half_mask((64, 64)), True, True),
        ("litellm", half_mask((64, 64)), True, True),
        ("litellm", half_mask((64, 64), alpha=False), False, True),
        ("xinference", half_mask((64, 64)), True, True),
        ("sglang", half_mask((64, 64)), True, False),
        ("vllm", half_mask((64, 64)), True, False),
    ],
)
def test_each_server_reads_masks_in_its_own_way(server: str, mask: bytes, painted: bool, kept: bool) -> None:
    image = png(colour=(200, 30, 60))
    with Emulator(server) as emulator:
        emulator.picture_format = "PNG"
        response = edit(emulator, image, mask, response_format="b64_json", size="256x256", **_model(server))
    drawn = pictures(response)[0]
    assert (drawn.crop((0, 0, 120, 256)).getcolors() != [(120 * 256, (200, 30, 60))]) is painted
    assert (drawn.crop((136, 0, 256, 256)).getcolors() == [(120 * 256, (200, 30, 60))]) is kept


def _model(server: str) -> dict[str, Any]:
    return {} if server == "vllm" else {"model": "dall-e-2"}


def test_vllm_knows_one_model_its_own_mask_field_and_no_auto_size() -> None:
    image, mask = png(colour=(200, 30, 60)), half_mask((64, 64))
    with Emulator("vllm") as emulator:
        mismatch = generate(emulator, SMALL)
        auto = generate(emulator, {"prompt": "a lighthouse", "size": "auto"})
        urls = generate(emulator, {"prompt": "a lighthouse", "response_format": "url"})
        masked = edit(emulator, image, mask, mask_field="mask_image", size="256x256")
    assert [r.status_code for r in (mismatch, auto, urls)] == [400, 400, 400]
    assert "Model mismatch" in mismatch.json()["detail"]
    assert pictures(masked)[0].crop((136, 0, 256, 256)).getcolors() == [(120 * 256, (200, 30, 60))]


def test_localai_inpaints_instead_of_editing() -> None:
    image, mask = png(colour=(200, 30, 60)), half_mask((64, 64))
    with Emulator("localai") as emulator:
        missing = edit(emulator, image, mask, model="dall-e-2")
        maskless = edit(emulator, image, route="inpainting", model="dall-e-2")
        made = edit(emulator, image, mask, route="inpainting", model="dall-e-2")
        assert [r.status_code for r in (missing, maskless, made)] == [404, 400, 200]
        download = requests.get(made.json()["data"][0]["url"], timeout=5)
    assert error(missing)["code"] == 404
    assert Image.open(io.BytesIO(download.content)).size == (512, 512)


def test_a_relative_url_of_sglang_can_be_fetched() -> None:
    with Emulator("sglang") as emulator:
        url = generate(emulator, {**SMALL, "response_format": "url"}).json()["data"][0]["url"]
        download = requests.get(emulator.origin + url, timeout=5)
    assert download.headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize("server", FLAVOURS)
def test_a_key_that_says_wrong_is_refused_by_every_server(server: str) -> None:
    body, more = any_call(server)
    headers = {name: "Bearer sk-wrong" if "Bearer" in key else "wrong" for name, key in more["headers"].items()}
    with Emulator(server) as emulator:
        assert generate(emulator, body, **{**more, "headers": headers}).status_code == 401
