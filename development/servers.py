"""`python dev.py servers`: the node in plain Python against a real server, Xinference, and what holds there.

The server's model is a whole Stable Diffusion pipeline, of one megabyte and with random weights: it draws noise. Each
check is a function whose docstring is the sentence that it prints.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from development.console import Failed, guarded, say
from development.package import load_package
from development.program import HOST, Program, free_port, local_request
from development.tiny_model import make_model

load_package()

from dalle2.errors import ImagesApiError  # noqa: E402 (the package has that name only now)
from dalle2.nodes import OpenAIDalle2  # noqa: E402
from dalle2.settings import SettingsFiles  # noqa: E402

MODEL = "tiny-sd"
SIZES = (256, 512, 1024)
LONG_PROMPT = "a lighthouse on a cliff, " * 60  # 1,500 characters; DALL·E 2 itself took 1,000
START_TIMEOUT_S = 300.0
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


class Xinference:
    """Xinference on loopback, with one model, within a `with` block. It sees none of the caller's keys and settings."""

    def __init__(self, folder: Path) -> None:
        self.origin = f"http://{HOST}:{free_port()}"
        # In Xinference's own cache: an empty one it deletes when it starts, and then it cannot put a model there.
        self._model_folder = folder / "cache" / "v2" / MODEL
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "XINFERENCE_HOME": str(folder), **ENVIRONMENT}
        self._program = Program("Xinference", Path(sys.executable), folder, env)

    def __enter__(self) -> Xinference:
        make_model(self._model_folder)
        script = Path(sys.executable).with_name("xinference-local")
        arguments = [str(script), "--host", HOST, "--port", self.origin.rpartition(":")[2]]
        self._program.start(arguments, f"{self.origin}/v1/models", START_TIMEOUT_S)
        try:
            self._launch_model()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once, with all the processes that it has started."""
        if self._program.process.poll() is not None:
            return
        main = psutil.Process(self._program.process.pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.kill()
        self._program.stop()
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
        require(reply.ok, f"Xinference answers {reply.status_code} at {path}: {reply.text[:1000]}")


def every_size_is_drawn(server: Xinference) -> str:
    """A prompt becomes an image of each of the three sizes."""
    for size in SIZES:
        images = draw(size=f"{size}x{size}")
        require(images.shape == (1, size, size, 3), f"for {size}x{size} came {list(images.shape)}")
        require(float(images.std()) > 0, "the image is blank")
    return ", ".join(f"{size}x{size}" for size in SIZES)


def two_images_are_drawn(server: Xinference) -> str:
    """n=2 brings two different images."""
    images = draw(n=2)
    require(images.shape == (2, 256, 256, 3), f"{list(images.shape)} came")
    require(not torch.equal(images[0], images[1]), "they are the same")
    return f"a batch of {list(images.shape)}"


def an_edit_keeps_what_is_not_masked(server: Xinference) -> str:
    """An edit repaints what is masked; everything else is the original's, bit for bit."""
    image, mask = torch.rand(1, 384, 512, 3), torch.zeros(1, 384, 512)
    mask[:, 100:300, 50:250] = 1
    edited = draw(image=image, mask=mask, size="512x512")
    require(edited.shape == image.shape, f"{list(edited.shape)} came")
    kept = mask == 0
    require(torch.equal(edited[kept], image[kept]), f"{int((edited[kept] != image[kept]).sum())} values have changed")
    changed = float((edited[~kept] != image[~kept]).float().mean())
    require(changed > 0.9, f"of the masked values only {changed:.0%} have changed")
    return f"{int(kept.sum())} of {mask.numel()} pixels kept, {changed:.0%} of the others' values changed"


def a_long_prompt_is_drawn(server: Xinference) -> str:
    """A prompt of more characters than DALL·E 2 took is the server's to judge, and this one takes it."""
    draw(prompt=LONG_PROMPT)
    return f"{len(LONG_PROMPT)} characters"


def a_wrong_model_is_explained(server: Xinference) -> str:
    """With a wrong DALLE2_MODEL the error names it and what the server has."""
    said = error_of(lambda: draw(model="no-such-model"))
    require_words(said, "DALLE2_MODEL", "no-such-model", MODEL, "Nothing was charged.")
    return said.splitlines()[0]


def auto_finds_the_only_model(server: Xinference) -> str:
    """DALLE2_MODEL=auto finds the server's only model by itself."""
    return f"an image of {list(draw(model='auto').shape)}"


def a_killed_server_is_explained(server: Xinference) -> str:
    """A server that is killed in mid-call ends in an error that says what happened, and that money may be gone."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(draw, n=8, size="1024x1024")
        time.sleep(MID_CALL_S)
        require(not call.done(), f"the call took less than {MID_CALL_S:g} s, so nothing was seen of it")
        server.kill()
        said = error_of(call.result)
    require_words(said, "connection", HOST, "You may have been charged")
    return said


# In this order: the first two meet a server of which nothing is known yet, and after the last one there is none.
CHECKS: tuple[Callable[[Xinference], str], ...] = (
    a_wrong_model_is_explained,
    auto_finds_the_only_model,
    every_size_is_drawn,
    two_images_are_drawn,
    an_edit_keeps_what_is_not_masked,
    a_long_prompt_is_drawn,
    a_killed_server_is_explained,
)


def draw(model: str = MODEL, **inputs: Any) -> Tensor:
    """The images `[N,H,W,C]` of one call, with `model` as DALLE2_MODEL."""
    os.environ["DALLE2_MODEL"] = model
    (images,) = OpenAIDalle2().api_call(**{"prompt": "a quiet harbour", "size": "256x256", **inputs})
    return images


def error_of(call: Callable[[], object]) -> str:
    """The message of the error that a call ends in. Raises Failed when it succeeds."""
    try:
        call()
    except ImagesApiError as err:
        return str(err)
    raise Failed("it drew an image")


def require(condition: bool, reason: str) -> None:
    """Raise Failed with the reason unless the condition holds."""
    if not condition:
        raise Failed(reason)


def require_words(text: str, *words: str) -> None:
    missing = [word for word in words if word not in text]
    require(not missing, f"{', '.join(missing)} is missing in: {text}")


def servers() -> None:
    """Make every check and print what came of it. Raises Failed when one does not hold."""
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "DALLE2_")) or name.upper().endswith("_PROXY"):
            del os.environ[name]
    OpenAIDalle2.settings_files = SettingsFiles(env=None)
    say("Starting Xinference ...")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Xinference(Path(folder)) as server:
        os.environ["OPENAI_BASE_URL"] = f"{server.origin}/v1"
        broken = [check for check in CHECKS if not holds(check, server)]
    if broken:
        raise Failed(f"{len(broken)} of {len(CHECKS)} promises are broken.")


def holds(check: Callable[[Xinference], str], server: Xinference) -> bool:
    """Make a check and print its line."""
    start_s = time.monotonic()
    try:
        verdict, result = "OK", check(server)
    except (Failed, ImagesApiError, ValueError) as err:
        verdict, result = "WRONG", str(err)
    say(f"{verdict} ({time.monotonic() - start_s:.1f} s): {check.__doc__} {result}")
    return verdict == "OK"


def main() -> int:
    return guarded(servers)


if __name__ == "__main__":
    sys.exit(main())
