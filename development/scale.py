"""`python dev.py scale`: two ComfyUI processes, one gateway (LiteLLM's proxy), two upstreams, and what holds there.

The gateway is set up by `docs/litellm.yaml`. The emulator takes the part of both upstreams, so it costs nothing. Each
check is a function whose docstring is the sentence that it prints.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from development.comfyui import ComfyUI, problem
from development.console import Failed, guarded, say
from development.emulator import Emulator, Fault
from development.package import ROOT
from development.program import HOST, Program, free_port, local_request
from development.workflows import Workflow, example_photo, inpainting, text_to_image

CONFIGURATION = ROOT / "docs" / "litellm.yaml"
MASTER_KEY = "sk-gateway-1234567890"
SIZES = ("256x256", "512x512", "1024x1024")
PHOTO = "photo.png"
SMALL_FILE = example_photo(64)
START_TIMEOUT_S = 180.0
# The machine may be busy with other things, and the gateway takes its time over a failing upstream.
RUN_TIMEOUT_S = 300.0
RUSH = 40
SAMPLE = 200  # requests, of which the share of each upstream is known closely enough to tell its weight
MOST_WORKFLOWS = 24  # by then the heavier upstream was asked, if it is asked at all
FAULTS = ("server_error", "rate_limit", "unauthorized")
# What a program needs to run at all; nothing else of the caller's environment is handed on.
KEPT = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
QUIET = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # or it would read a .env file
    "LITELLM_TELEMETRY": "False",
}
_numbers = itertools.count(1)


class Gateway:
    """LiteLLM's proxy on loopback, in an environment of its own. It sees none of the caller's keys and settings."""

    def __init__(self, python: Path, folder: Path, upstreams: Mapping[str, Emulator]) -> None:
        self.port = free_port()
        self.base_url = f"http://{HOST}:{self.port}/v1"
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env |= {**QUIET, "HOME": str(folder), "USERPROFILE": str(folder), "LITELLM_MASTER_KEY": MASTER_KEY}
        for name, upstream in upstreams.items():
            env[f"UPSTREAM_{name}_URL"] = upstream.base_url
            env[f"UPSTREAM_{name}_KEY"] = upstream.api_key
        env |= {"NO_PROXY": f"{HOST},localhost", "PYTHONUNBUFFERED": "1"}
        self._program = Program("LiteLLM", python, folder, env)

    def start(self) -> None:
        """Start it, or start it again: what it remembers of its upstreams' failures is gone."""
        self.stop()
        module = ["-m", "litellm.proxy.proxy_cli", "--config", str(CONFIGURATION), "--host", HOST]
        # Not /health, which has every upstream draw a picture.
        url = f"http://{HOST}:{self.port}/health/liveliness"
        self._program.start([*module, "--port", str(self.port)], url, START_TIMEOUT_S)

    def stop(self) -> None:
        self._program.stop()

    def ask(self, number: int) -> int:
        """Ask for a new picture, or for an edit every other time; return the status of the answer."""
        body = {"model": "gpt-image-2", "prompt": f"sample {number}", "size": "1024x1024", "quality": "low"}
        files = {field: (f"{field}.png", SMALL_FILE, "image/png") for field in ("image", "mask")}
        route, content = ("edits", {"data": body, "files": files}) if number % 2 else ("generations", {"json": body})
        headers = {"Authorization": f"Bearer {MASTER_KEY}"}
        url = f"{self.base_url}/images/{route}"
        return local_request("POST", url, **content, headers=headers, timeout=120).status_code


@dataclass(frozen=True)
class Scene:
    """What runs: ComfyUI processes, the gateway that they use, and the upstreams that it uses."""

    workers: Sequence[ComfyUI]
    gateway: Gateway
    upstreams: Sequence[Emulator]

    def draw(self, workflows: Sequence[Workflow]) -> list[Path]:
        """The pictures of all workflows, queued in turn on the workers; each has to be paid for once. Raises Failed."""
        before = self.paid()
        queued = [(worker, worker.queue(graph)) for worker, graph in zip(itertools.cycle(self.workers), workflows)]
        pictures: list[Path] = []
        for worker, prompt_id in queued:
            entry = worker.wait(prompt_id, RUN_TIMEOUT_S)
            require(problem(entry) is None, f"a workflow failed: {problem(entry)}")
            pictures += worker.pictures(entry)
        paid = self.paid() - before
        require(paid == len(workflows), f"{paid} pictures were paid for, not {len(workflows)}")
        return pictures

    def sample(self, count: int) -> None:
        """Send requests straight to the gateway, several at a time. Raises Failed if one fails."""
        for upstream in self.upstreams:
            upstream.answer_size = (64, 64)  # it is the requests that count here
        with ThreadPoolExecutor(8) as pool:
            bad = [status for status in pool.map(self.gateway.ask, range(count)) if status != 200]
        require(not bad, f"{len(bad)} of {count} requests to the gateway failed, with status {bad[:1]}")

    def paid(self) -> int:
        """How many pictures the upstreams have billed."""
        return sum(upstream.paid_pictures for upstream in self.upstreams)


def every_size_is_drawn(scene: Scene) -> str:
    """A prompt, and an image with its mask, become a picture of every size."""
    wanted = [size for size in SIZES for _ in range(4)]
    pictures = scene.draw([make(size) for size in SIZES for make in (prompted, masked) for _ in scene.workers])
    sizes = []
    for picture in pictures:
        with Image.open(picture) as image:
            sizes.append(f"{image.width}x{image.height}")
    require(sizes == wanted, f"the pictures are {', '.join(sizes)}")
    return f"{len(sizes)} pictures, as many paid for"


def each_upstream_sees_only_its_own_key(scene: Scene) -> str:
    """Each upstream is sent its own key, and never the gateway's."""
    scene.sample(20)
    for upstream in scene.upstreams:
        seen = {record.headers.get("authorization") for record in upstream.posts}
        require(seen == {f"Bearer {upstream.api_key}"}, f"an upstream was sent {len(seen)} different keys")
        values = [value for record in upstream.posts for value in record.headers.values()]
        require(not any(MASTER_KEY in value for value in values), "the gateway's key was handed on to an upstream")
    return f"{sum(len(upstream.posts) for upstream in scene.upstreams)} requests"


def the_load_is_shared_by_weight(scene: Scene) -> str:
    """The upstreams share the load by their weights, new pictures and edits alike."""
    scene.sample(SAMPLE)
    weights = [int(w) for w in re.findall(r"^ +weight: (\d+)$", CONFIGURATION.read_text("utf-8"), re.MULTILINE)]
    half, figures = SAMPLE / 2, []
    for route in ("generations", "edits"):
        for upstream, weight in zip(scene.upstreams, weights, strict=True):
            part = weight / sum(weights)
            margin = 4 * (half * part * (1 - part)) ** 0.5  # chance alone goes beyond it once in 16,000 runs
            count = sum(record.path.endswith(route) for record in upstream.posts if record.billed)
            require(abs(count - half * part) <= margin, f"{count} {route}, expected {half * part:.0f} +- {margin:.0f}")
            figures.append(f"{count} {route}")
    return f"{', '.join(figures)}, by weights of {weights}"


def a_rush_is_served(scene: Scene) -> str:
    """40 workflows from two ComfyUI processes at once all succeed."""
    start_s = time.monotonic()
    scene.draw(of_all_kinds(RUSH))
    return f"{RUSH} of {RUSH}, one every {(time.monotonic() - start_s) / RUSH:.2f} s"


def a_bad_key_is_explained(scene: Scene) -> str:
    """A worker with no key or a wrong one is told so in ComfyUI, and nothing is drawn."""
    worker = scene.workers[0]
    for key in ("", "sk-of-somebody-else-0123456789"):
        worker.set_up(OPENAI_API_KEY=key)
        try:
            said = problem(worker.run(prompted("256x256"), timeout_s=RUN_TIMEOUT_S)) or "nothing: it drew a picture"
        finally:
            worker.set_up(OPENAI_API_KEY=MASTER_KEY)
        require("OPENAI_API_KEY" in said, f"ComfyUI says: {said}")
    require(not any(upstream.posts for upstream in scene.upstreams), "an upstream was asked all the same")
    return said.splitlines()[0]


def an_upstream_may_be_down(scene: Scene) -> str:
    """With one upstream down every workflow succeeds, and nothing is billed twice."""
    scene.gateway.start()
    scene.upstreams[0].stop()
    try:
        return f"{len(scene.draw(of_all_kinds(8)))} workflows"
    finally:
        scene.upstreams[0].start()


def an_upstream_may_fail(scene: Scene) -> str:
    """With one upstream failing every workflow succeeds, and nothing is billed twice."""
    first, figures = scene.upstreams[0], []
    for fault in FAULTS:
        scene.gateway.start()
        first.reset()
        first.fail(Fault(fault, times=None))
        workflows = 0
        while not first.posts and workflows < MOST_WORKFLOWS:  # an upstream that was not asked has shown nothing
            workflows += len(scene.draw(of_all_kinds(4)))
        require(bool(first.posts), f"the upstream with {fault} was never asked")
        require(first.paid_pictures == 0, f"the upstream with {fault} was paid for {first.paid_pictures} pictures")
        figures.append(f"{fault}: {workflows} workflows, asked {len(first.posts)} times")
    return "; ".join(figures)


# In this order: after the last ones the gateway avoids an upstream for a while.
CHECKS: tuple[Callable[[Scene], str], ...] = (
    every_size_is_drawn,
    each_upstream_sees_only_its_own_key,
    the_load_is_shared_by_weight,
    a_rush_is_served,
    a_bad_key_is_explained,
    an_upstream_may_be_down,
    an_upstream_may_fail,
)


def prompted(size: str) -> Workflow:
    """A workflow with a prompt that was not used before: ComfyUI would not run it again."""
    return text_to_image(f"a lighthouse, number {next(_numbers)}", size=size)


def masked(size: str) -> Workflow:
    """The same for inpainting."""
    return inpainting(f"a balloon, number {next(_numbers)}", PHOTO, size=size)


def of_all_kinds(count: int) -> list[Workflow]:
    """So many workflows of all kinds and sizes."""
    kinds = itertools.cycle(itertools.product(SIZES, (prompted, masked)))
    return [make(size) for size, make in itertools.islice(kinds, count)]


def require(condition: bool, reason: str) -> None:
    """Raise Failed with the reason unless the condition holds."""
    if not condition:
        raise Failed(reason)


@contextmanager
def set_up(folder: Path, python: Path) -> Iterator[Scene]:
    """Everything running: the second worker names no model, as one that was never told about the gateway's."""
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Emulator(api_key=f"sk-upstream-{name}")) for name in "AB"}
        gateway = Gateway(python, folder / "gateway", upstreams)
        stack.callback(gateway.stop)
        say("Starting LiteLLM and two ComfyUIs ...")
        gateway.start()
        workers = []
        for model in ("gpt-image-2", "auto"):
            env = {"OPENAI_BASE_URL": gateway.base_url, "DALLE2_MODEL": model}
            workers.append(stack.enter_context(ComfyUI(folder / f"worker-{model}", env=env)))
            workers[-1].upload(PHOTO, example_photo(512))
            workers[-1].set_up(OPENAI_API_KEY=MASTER_KEY)
        yield Scene(workers, gateway, list(upstreams.values()))


def scale(python: Path) -> None:
    """Make every check. Raises Failed when one does not hold."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, set_up(Path(folder), python) as scene:
        for check in CHECKS:
            say(str(check.__doc__))
            for upstream in scene.upstreams:
                upstream.reset()
            start_s = time.monotonic()
            figures = check(scene)
            say(f"  yes: {figures} ({time.monotonic() - start_s:.1f} s)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py scale", description=__doc__)
    parser.add_argument("--litellm-python", type=Path, required=True, help="the Python that LiteLLM is installed for")
    python = parser.parse_args().litellm_python
    return guarded(lambda: scale(python))


if __name__ == "__main__":
    sys.exit(main())
