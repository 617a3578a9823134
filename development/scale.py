"""`python dev.py scale`: two ComfyUI processes, one gateway (LiteLLM's proxy), two upstreams, and what holds there.

The gateway is set up by `docs/litellm.yaml`. The emulator takes the part of both upstreams, so it costs nothing. pytest
runs this file, from top to bottom, and shows what it prints.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from development.comfyui import ComfyUI, problem
from development.emulator import Emulator, Fault
from development.package import ROOT
from development.program import HOST, Program, free_port, local_request
from development.workflows import Workflow, example_photo, inpainting, text_to_image

CONFIGURATION = ROOT / "docs" / "litellm.yaml"
MASTER_KEY = "sk-gateway-1234567890"
SIZES = ("256x256", "512x512", "1024x1024")
PHOTO = "photo.png"
# The machine may be busy with other things, and the gateway takes its time over a failing upstream.
RUN_TIMEOUT_S = 300.0
ROUNDS = 4  # of workflows of every kind, all at once
SAMPLE = 100  # requests, of which the share of each upstream is known closely enough to tell its weight
# What a program needs to run at all; nothing else of the caller's environment is handed on.
KEPT = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
QUIET = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # or it would read a .env file
    "LITELLM_TELEMETRY": "False",
}
_numbers = itertools.count(1)


class Gateway(Program):
    """LiteLLM's proxy on loopback, in an environment of its own. It sees none of the caller's keys and settings."""

    def __init__(self, folder: Path, upstreams: Mapping[str, Emulator]) -> None:
        port = free_port()
        self.base_url = f"http://{HOST}:{port}/v1"
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env |= {**QUIET, "HOME": str(folder), "USERPROFILE": str(folder), "LITELLM_MASTER_KEY": MASTER_KEY}
        for name, upstream in upstreams.items():
            env[f"UPSTREAM_{name}_URL"] = upstream.base_url
            env[f"UPSTREAM_{name}_KEY"] = upstream.api_key
        env |= {"NO_PROXY": f"{HOST},localhost", "PYTHONUNBUFFERED": "1"}
        python, module = os.environ["LITELLM_PYTHON"], "litellm.proxy.proxy_cli"
        command = [python, "-m", module, "--config", str(CONFIGURATION), "--host", HOST, "--port", str(port)]
        # Not /health, which has every upstream draw a picture.
        super().__init__("LiteLLM", folder, command, f"http://{HOST}:{port}/health/liveliness", env)

    def restart(self) -> None:
        """Let it forget its upstreams' failures."""
        self.stop()
        self.start()

    def ask(self, number: int) -> int:
        """Ask for a new picture; return the status of the answer."""
        body = {"model": "gpt-image-2", "prompt": f"sample {number}", "size": "1024x1024", "quality": "low"}
        headers = {"Authorization": f"Bearer {MASTER_KEY}"}
        url = f"{self.base_url}/images/generations"
        return local_request("POST", url, json=body, headers=headers, timeout=120).status_code


@dataclass(frozen=True)
class Scene:
    """What runs: ComfyUI processes, the gateway that they use, and the upstreams that it uses."""

    workers: Sequence[ComfyUI]
    gateway: Gateway
    upstreams: Sequence[Emulator]

    def draw(self, workflows: Sequence[Workflow]) -> list[Path]:
        """The pictures of all workflows, queued in turn on the workers; each has to be paid for once."""
        before = self.paid()
        queued = [(worker, worker.queue(graph)) for worker, graph in zip(itertools.cycle(self.workers), workflows)]
        pictures: list[Path] = []
        for worker, prompt_id in queued:
            entry = worker.wait(prompt_id, RUN_TIMEOUT_S)
            assert problem(entry) is None
            pictures += worker.pictures(entry)
        assert self.paid() - before == len(workflows)
        return pictures

    def paid(self) -> int:
        """How many pictures the upstreams have billed."""
        return sum(upstream.paid_pictures for upstream in self.upstreams)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything running: the second worker names no model, as one that was never told about the gateway's."""
    folder = tmp_path_factory.mktemp("scale")
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Emulator(api_key=f"sk-upstream-{name}")) for name in "AB"}
        gateway = stack.enter_context(Gateway(folder / "gateway", upstreams))
        workers = []
        for model in ("gpt-image-2", "auto"):
            env = {"OPENAI_BASE_URL": gateway.base_url, "DALLE2_MODEL": model}
            worker = stack.enter_context(ComfyUI(folder / f"worker-{model}", env=env))
            worker.upload(PHOTO, example_photo(512))
            worker.set_up(OPENAI_API_KEY=MASTER_KEY)
            workers.append(worker)
        yield Scene(workers, gateway, list(upstreams.values()))


@pytest.fixture
def scene(running: Scene) -> Scene:
    for upstream in running.upstreams:
        upstream.reset()
    return running


def every_kind() -> list[Workflow]:
    """Workflows of every size, from a prompt and from a mask, each for two workers."""
    made = []
    for size in SIZES:
        for _ in range(2):
            made.append(text_to_image(new_prompt(), size=size))
        for _ in range(2):
            made.append(inpainting(new_prompt(), PHOTO, size=size))
    return made


def new_prompt() -> str:
    """A prompt that was not used before: ComfyUI would not run it again."""
    return f"a lighthouse, number {next(_numbers)}"


def test_many_workflows_at_once_succeed_and_each_upstream_sees_its_own_key_only(scene: Scene) -> None:
    pictures = scene.draw([workflow for _ in range(ROUNDS) for workflow in every_kind()])
    sizes = []
    for picture in pictures:
        with Image.open(picture) as image:
            sizes.append(f"{image.width}x{image.height}")
    assert sizes == [size for size in SIZES for _ in range(4)] * ROUNDS
    for upstream in scene.upstreams:
        assert {record.headers.get("authorization") for record in upstream.posts} == {f"Bearer {upstream.api_key}"}
        assert not any(MASTER_KEY in value for record in upstream.posts for value in record.headers.values())


def test_the_upstreams_share_the_load_by_their_weights(scene: Scene) -> None:
    for upstream in scene.upstreams:
        upstream.answer_size = (64, 64)  # it is the requests that count here
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(scene.gateway.ask, range(SAMPLE))) == {200}
    weights = [int(w) for w in re.findall(r"^ +weight: (\d+)$", CONFIGURATION.read_text("utf-8"), re.MULTILINE)]
    for upstream, weight in zip(scene.upstreams, weights, strict=True):
        part = weight / sum(weights)
        margin = 4 * (SAMPLE * part * (1 - part)) ** 0.5  # chance alone goes beyond it once in 16,000 runs
        print(f"{upstream.paid_pictures} pictures, expected {SAMPLE * part:.0f}")
        assert abs(upstream.paid_pictures - SAMPLE * part) <= margin


@pytest.mark.parametrize("key", ["", "sk-of-somebody-else-0123456789"])
def test_a_worker_with_no_key_or_a_wrong_one_is_told_so_and_nothing_is_drawn(scene: Scene, key: str) -> None:
    worker = scene.workers[0]
    worker.set_up(OPENAI_API_KEY=key)
    try:
        said = problem(worker.run(text_to_image(new_prompt()), timeout_s=RUN_TIMEOUT_S))
    finally:
        worker.set_up(OPENAI_API_KEY=MASTER_KEY)
    assert "OPENAI_API_KEY" in (said or "")
    assert not any(upstream.posts for upstream in scene.upstreams)


# From here on the gateway avoids an upstream for a while.
def test_with_one_upstream_down_every_workflow_succeeds_and_nothing_is_billed_twice(scene: Scene) -> None:
    scene.gateway.restart()
    scene.upstreams[0].stop()
    try:
        scene.draw(every_kind())
    finally:
        scene.upstreams[0].start()


@pytest.mark.parametrize("fault", ["server_error", "rate_limit", "unauthorized"])
def test_with_one_upstream_failing_every_workflow_succeeds_and_nothing_is_billed_twice(
    scene: Scene, fault: str
) -> None:
    scene.gateway.restart()
    first = scene.upstreams[0]
    first.fail(Fault(fault, times=None))
    scene.draw(every_kind())
    assert first.posts and first.paid_pictures == 0
