"""The emulator in the part of other servers than OpenAI.

`recordings` holds what three real ones answered on 2026-11-24: stable-diffusion.cpp's sd-server, SGLang 0.5.23 and
Xinference 4.1.0. A line is one request, which changes one thing in the request "ok"; PORT, N, UUID and /SERVER stand for
what differs from run to run.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import FLAVOURS, Emulator
from tests.emulated import KEY, SMALL, edit, generate, half_mask, pictures, png

RECORDINGS = Path(__file__).with_name("recordings")
OK: dict[str, Any] = {"model": "tiny-sd", "prompt": "x", "n": 1, "size": "256x256", "response_format": "b64_json"}
WITHOUT = object()
# What a line changes. Left out are those that the node never sends: broken bodies, wrong types, no pictures, formats and
# sizes that it does not ask for, other paths. The emulator does not model them.
CHANGES: dict[str, dict[str, Any]] = {
    "ok": {},
    "model wrong": {"model": "nope"},
    "no model": {"model": WITHOUT},
    "quality": {"quality": "low"},
    "response_format url": {"response_format": "url"},
    "response url": {"response_format": "url"},
    "no response_format": {"response_format": WITHOUT},
    "response_format bogus": {"response_format": "bogus"},
    "no prompt": {"prompt": WITHOUT},
    "n=2": {"n": 2},
    "size auto": {"size": "auto"},
    "size junk": {"size": "junk"},
    "unknown field": {"style": "vivid"},
    "seed": {"seed": 1},
    "no mask": {"mask": WITHOUT},
    "no image": {"image": WITHOUT},
    "image[]": {"image": WITHOUT, "image[]": png("RGBA")},
    "image+image[]": {"image[]": png("RGBA")},
    "mask_image": {"mask": WITHOUT, "mask_image": half_mask((64, 64))},
    "mask other size": {"mask": half_mask((32, 32))},
    "image junk": {"image": b"junk"},
    "mask junk": {"mask": b"junk"},
}


def recorded(server: str) -> list[tuple[str, str]]:
    """The lines of a recording that the emulator models: what was sent, and what came."""
    lines = (RECORDINGS / f"{server}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(part.strip() for part in line.split("|", 1)) for line in lines if "|" in line[:30]]
    return [(sent, came) for sent, came in pairs if sent.partition(" ")[2] in CHANGES]


def send(emulator: Emulator, sent: str) -> requests.Response:
    route, _, name = sent.partition(" ")
    files = {"image": png("RGBA", (256, 256)), "mask": half_mask((256, 256))} if route == "edit" else {}
    body = {key: value for key, value in {**OK, **files, **CHANGES[name]}.items() if value is not WITHOUT}
    if route == "gen":
        return requests.post(f"{emulator.base_url}/images/generations", json=body, timeout=5)
    parts = {k: (f"{k}.png", v, "image/png") if isinstance(v, bytes) else (None, str(v)) for k, v in body.items()}
    return requests.post(f"{emulator.base_url}/images/edits", files=parts, timeout=5)


def shape(value: Any) -> Any:
    """What an error looks like, without what differs from run to run."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in ("input", "ctx")}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return re.sub(r"\d+|PORT|\bN\b|0x\w+", "#", str(value))[:44]


def described(response: requests.Response) -> str:
    """An answer in the words of the recordings."""
    head = f"{response.status_code} {response.headers['Content-Type']}"
    if response.status_code != 200:
        return f"{head} {shape(response.json() if 'json' in head else response.text)}"
    body = response.json()
    items = [dict(item) for item in body["data"]]
    if items[0].get("b64_json"):
        picture = Image.open(io.BytesIO(base64.b64decode(items[0]["b64_json"])))
        items[0]["b64_json"] = f"{picture.format} {picture.mode} {picture.size}"
    return f"{head} {sorted(set(body) - {'data'})} n={len(items)} {plain(items[0])}"


def as_recorded(came: str) -> str:
    """The same of a line of a recording."""
    head, _, rest = came.partition(" [" if came.startswith("200") else " {" if "json {" in came else " '")
    if not came.startswith("200"):
        text = came[len(head) + 1 :]
        return f"{head} {shape(json.loads(text) if text.startswith('{') else ast.literal_eval(text))}"
    keys, _, item = f"[{rest}".partition(" {")
    return f"{head} {keys} {plain(ast.literal_eval('{' + item))}"


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """An item of `data`, with paths and URLs cut to what tells one from the other, and any text for a prompt."""
    item = {**item, "revised_prompt": type(item["revised_prompt"])} if "revised_prompt" in item else item
    item = {key: re.sub(r"^/(root|SERVER)/.*", "a path", str(value)) for key, value in sorted(item.items())}
    return {key: re.sub(r"/[0-9a-f]{32}/|/UUID/", "/#/", value) for key, value in item.items()}


@pytest.mark.parametrize("server", ["sdcpp", "sglang", "xinference"])
def test_answers_like_the_recording_of_the_real_server(server: str) -> None:
    lines = recorded(server)
    assert len(lines) > 25
    with Emulator(server, models=["tiny-sd"]) as emulator:
        for sent, came in lines:
            assert (sent, described(send(emulator, sent))) == (sent, as_recorded(came))


@pytest.mark.parametrize("server", ["sdcpp", "sglang", "xinference"])
def test_lists_its_model_like_the_recording(server: str) -> None:
    line = (RECORDINGS / f"{server}.txt").read_text(encoding="utf-8").splitlines()[0]
    with Emulator(server) as emulator:
        (listed,) = requests.get(f"{emulator.base_url}/models", timeout=5).json()["data"]
    for key in ("id", "object", "owned_by", "model_type", "model_ability", "task_type", "supported_task_types"):
        assert (f'"{key}":' in line) == (key in listed), key
    assert f'"owned_by":"{listed["owned_by"]}"' in line


@pytest.mark.parametrize("server", FLAVOURS)
def test_every_server_draws(server: str) -> None:
    with Emulator(server) as emulator:
        body = {"model": next(iter(FLAVOURS[server].models), "any"), "prompt": "the sea", "size": "1024x1024"}
        headers = {"api-key": "sk-emulated"} if server == "azure" else KEY
        response = generate(emulator, body, headers=headers, params={"api-version": "preview"})
        assert response.status_code == 200 and len(response.json()["data"]) == emulator.paid_pictures == 1


@pytest.mark.parametrize(
    ("server", "alpha", "painted", "kept"),
    [
        ("sdcpp", False, True, True),
        ("litellm", True, True, True),
        ("litellm", False, False, True),
        ("xinference", True, True, True),
        ("sglang", True, True, False),
        ("vllm", True, True, False),
    ],
)
def test_each_server_reads_masks_in_its_own_way(server: str, alpha: bool, painted: bool, kept: bool) -> None:
    with Emulator(server) as emulator:
        emulator.picture_format, emulator.redraws = "PNG", False
        mask = half_mask((64, 64), alpha=alpha)
        (drawn,) = pictures(edit(emulator, png(), mask, response_format="b64_json", size="256x256"))
    assert (drawn.crop((0, 0, 120, 256)).getcolors() != [(120 * 256, (255, 0, 0))]) is painted
    assert (drawn.crop((136, 0, 256, 256)).getcolors() == [(120 * 256, (255, 0, 0))]) is kept


def test_azure_wants_its_header_its_version_and_a_deployment() -> None:
    key, version = {"api-key": "sk-emulated"}, {"api-version": "preview"}
    with Emulator("azure") as emulator:
        bearer = generate(emulator, SMALL, headers=KEY, params=version)
        versionless = generate(emulator, SMALL, headers=key)
        undeployed = generate(emulator, SMALL, headers=key, params=version)
    assert [response.status_code for response in (bearer, versionless, undeployed)] == [401, 404, 404]
    assert undeployed.json()["error"]["code"] == "DeploymentNotFound"


def test_litellm_and_vllm_name_a_wrong_model_with_status_400() -> None:
    for server, words in (("litellm", "Invalid model name"), ("vllm", "Model mismatch")):
        with Emulator(server, models=["another"]) as emulator:
            response = generate(emulator, SMALL)
            assert response.status_code == 400 and words in response.json()["error"]["message"]


def test_localai_inpaints_instead_of_editing() -> None:
    with Emulator("localai") as emulator:
        missing = edit(emulator, png(), half_mask((64, 64)))
        maskless = edit(emulator, png(), route="inpainting")
        made = edit(emulator, png(), half_mask((64, 64)), route="inpainting")
        assert [response.status_code for response in (missing, maskless, made)] == [404, 400, 200]
        assert requests.get(made.json()["data"][0]["url"], timeout=5).headers["Content-Type"] == "image/png"
