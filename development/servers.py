"""`python dev.py servers`: the node in plain Python against a real server, Xinference, and what holds there.

The server's model is a whole Stable Diffusion pipeline, of one megabyte and with random weights: it draws noise. pytest
runs this file, from top to bottom.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from development.package import load_package
from development.program import HOST, Program, free_port, local_request
from development.tiny_model import make_model

load_package()

from dalle2.errors import ImagesApiError  # noqa: E402 (the package has that name only now)
from dalle2.nodes import OpenAIDalle2  # noqa: E402
from dalle2.settings import SettingsFiles  # noqa: E402

MODEL = "tiny-sd"
LONG_PROMPT = "a lighthouse on a cliff, " * 60  # 1,500 characters; DALL·E 2 itself took 1,000
LAUNCH_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
MID_CALL_S = 3.0  # the server has the request by then, and is far from done with eight images
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the model is on the disk
    "XINFERENCE_AUTH_ADVANCED": "false",  # or it wants a login
    "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",  # or it installs packages of its own choice
    "OMP_NUM_THREADS": "1",  # on a busy machine, threads that wait for each other take ten times as long
    "PYTHONUNBUFFERED": "1",
}


class Xinference(Program):
    """Xinference on loopback, with one model. It sees none of the caller's keys and settings."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.origin = f"http://{HOST}:{port}"
        # In Xinference's own cache: an empty one it deletes when it starts, and then it cannot put a model there.
        self._model_folder = folder / "cache" / "v2" / MODEL
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "XINFERENCE_HOME": str(folder), **ENVIRONMENT}
        command = [str(Path(sys.executable).with_name("xinference-local")), "--host", HOST, "--port", str(port)]
        super().__init__("Xinference", folder, command, f"{self.origin}/v1/models", env)

    def start(self) -> None:
        """Start it, and let it launch its model."""
        make_model(self._model_folder)
        super().start()
        try:
            self._launch_model()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once, with all the processes that it has started."""
        if self.process.poll() is not None:
            return
        main = psutil.Process(self.process.pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.kill()
        self.stop()
        psutil.wait_procs(processes, STOP_TIMEOUT_S)

    def _launch_model(self) -> None:
        spec = {
            "version": 2,
            "model_family": "stable_diffusion",
            "model_name": MODEL,
            "model_id": MODEL,
            "model_uri": str(self._model_folder),
            "model_ability": ["text2image", "image2image", "inpainting"],
            "default_model_config": {"torch_dtype": "float32"},
            "default_generate_config": {"num_inference_steps": 2},
        }
        self._post("/v1/model_registrations/image", {"model": json.dumps(spec), "persist": False})
        self._post("/v1/models", {"model_uid": MODEL, "model_name": MODEL, "model_type": "image"})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        reply = local_request("POST", self.origin + path, json=body, timeout=LAUNCH_TIMEOUT_S)
        assert reply.ok, reply.text


@pytest.fixture(scope="module")
def xinference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xinference]:
    with Xinference(tmp_path_factory.mktemp("xinference")) as server:
        yield server


@pytest.fixture(autouse=True)
def server(xinference: Xinference, monkeypatch: pytest.MonkeyPatch) -> Xinference:
    """The server, to which the node is led by nothing but its address."""
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "DALLE2_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{xinference.origin}/v1")
    monkeypatch.setenv("DALLE2_MODEL", MODEL)
    monkeypatch.setattr(OpenAIDalle2, "settings_files", SettingsFiles(env=None))
    return xinference


def draw(**inputs: Any) -> Tensor:
    """The images `[N,H,W,C]` of one call."""
    (images,) = OpenAIDalle2().api_call(**{"prompt": "a quiet harbour", "size": "256x256", **inputs})
    return images


# The first two meet a server of which nothing is known yet.
def test_a_wrong_model_is_named_beside_what_the_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE2_MODEL", "no-such-model")
    with pytest.raises(ImagesApiError) as caught:
        draw()
    for word in ("DALLE2_MODEL", "no-such-model", MODEL, "Nothing was charged."):
        assert word in str(caught.value)


def test_auto_finds_the_only_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE2_MODEL", "auto")
    assert draw().shape == (1, 256, 256, 3)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_a_prompt_becomes_an_image_of_the_size(size: int) -> None:
    images = draw(size=f"{size}x{size}")
    assert images.shape == (1, size, size, 3)
    assert float(images.std()) > 0


def test_two_images_are_different() -> None:
    images = draw(n=2)
    assert images.shape == (2, 256, 256, 3)
    assert not torch.equal(images[0], images[1])


def test_an_edit_repaints_what_is_masked_and_keeps_everything_else_bit_for_bit() -> None:
    image, mask = torch.rand(1, 384, 512, 3), torch.zeros(1, 384, 512)
    mask[:, 100:300, 50:250] = 1
    edited = draw(image=image, mask=mask, size="512x512")
    kept = mask == 0
    assert torch.equal(edited[kept], image[kept])
    assert float((edited[~kept] != image[~kept]).float().mean()) > 0.9


def test_a_prompt_of_more_characters_than_dall_e_2_took_is_the_servers_to_judge() -> None:
    draw(prompt=LONG_PROMPT)


def test_a_server_that_is_killed_ends_in_an_error_that_says_that_money_may_be_gone(server: Xinference) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(draw, n=8, size="1024x1024")
        time.sleep(MID_CALL_S)
        assert not call.done()  # or nothing was seen of it
        server.kill()
        with pytest.raises(ImagesApiError) as caught:
            call.result()
    for word in ("connection", HOST, "You may have been charged"):
        assert word in str(caught.value)
