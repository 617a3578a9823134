"""`python dev.py scale`: two ComfyUI processes, one gateway (LiteLLM's proxy), two upstreams, and what holds there.

The gateway is set up by `docs/litellm.yaml`. The emulator takes the part of both upstreams, so it costs nothing.
Each check is a function whose docstring is the sentence that it prints; the reason why it does not hold follows.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from development.comfyui import ComfyUI, problem
from development.console import Failed, guarded, say
from development.emulator import Emulator, Fault
from development.gateway import MASTER_KEY, Gateway, Upstream, weights
from development.program import local_request
from development.workflows import Workflow, example_photo, inpainting, text_to_image

SIZES = ("256x256", "512x512", "1024x1024")
PHOTO = "photo.png"
SMALL_FILE = example_photo(64)
# The machine may be busy with other things, and the gateway takes its time over a failing upstream.
RUN_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
RUSH = 40
# Of so many requests the share of each upstream is known closely enough to tell its weight.
SAMPLE = 200
SAMPLE_THREADS = 8
# By then the heavier upstream was asked, if it is asked at all.
MOST_WORKFLOWS = 24
# Standard deviations: chance alone goes beyond them once in 16,000 runs.
TOLERANCE = 4.0
FAULTS = {
    "answers 500": "server_error",
    "is over its rate limit": "rate_limit",
    "has had its key revoked": "unauthorized",
}
_numbers = itertools.count(1)


class ScaleFailed(Failed):
    """Something that should hold does not."""


@dataclass(frozen=True)
class Scene:
    """What runs: ComfyUI processes, the gateway that they use, and the upstreams that it uses."""

    workers: tuple[ComfyUI, ...]
    gateway: Gateway
    upstreams: tuple[Emulator, ...]

    def clear(self) -> None:
        """Empty the upstreams' logs, let nothing fail, and reset what is turned."""
        for upstream in self.upstreams:
            upstream.reset()

    @property
    def paid(self) -> list[int]:
        """How many pictures each upstream has billed since `clear`."""
        return [upstream.paid_pictures for upstream in self.upstreams]

    def draw(self, workflows: Sequence[Workflow]) -> list[list[Path]]:
        """The pictures of each workflow; they are queued in turn on the workers. Raises ScaleFailed if one fails."""
        queued = [(worker, worker.queue(graph)) for worker, graph in zip(itertools.cycle(self.workers), workflows)]
        entries = [(worker, worker.wait(prompt_id, RUN_TIMEOUT_S)) for worker, prompt_id in queued]
        for number, (_, entry) in enumerate(entries, 1):
            require(problem(entry) is None, f"workflow {number} of {len(entries)} failed: {problem(entry)}")
        return [worker.pictures(entry) for worker, entry in entries]


Check = Callable[[Scene], str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m development.scale", description=__doc__)
    parser.add_argument(
        *("--litellm-python", "-p"),
        type=Path,
        default=os.environ.get("LITELLM_PYTHON"),
        help="the Python of the environment that LiteLLM is installed in (default: $LITELLM_PYTHON)",
    )
    python = parser.parse_args().litellm_python
    if python is None:
        parser.error("say where LiteLLM is installed, or run `python dev.py scale`, which installs it")
    return guarded(lambda: scale(python))


def scale(python: Path) -> None:
    """Make every check, and raise ScaleFailed when one does not hold."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, set_up(Path(folder), python) as scene:
        failed = [check for check in CHECKS if not holds(check, scene)]
        if not failed:
            say(f"For the record: {price_of_a_lost_answer(scene)}")
    if failed:
        raise ScaleFailed(f"{len(failed)} of {len(CHECKS)} checks failed; the reasons are above.")
    print(f"All {len(CHECKS)} checks hold.")


@contextmanager
def set_up(folder: Path, python: Path) -> Iterator[Scene]:
    """Everything running: the second worker names no model, as one that was never told about the gateway's."""
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Emulator(api_key=f"sk-upstream-{name}")) for name in "AB"}
        say("Starting LiteLLM ...")
        addresses = {name: Upstream(u.base_url, u.api_key or "") for name, u in upstreams.items()}
        gateway = stack.enter_context(Gateway(python, folder / "gateway", addresses))
        workers = []
        for number, model in enumerate(("gpt-image-2", "auto"), 1):
            say(f"Starting ComfyUI {number} of 2 ...")
            env = {"OPENAI_BASE_URL": gateway.base_url, "DALLE2_MODEL": model}
            workers.append(stack.enter_context(ComfyUI(folder / f"worker-{number}", env=env)))
            workers[-1].upload(PHOTO, example_photo(512))
            workers[-1].set_up(OPENAI_API_KEY=MASTER_KEY)
        yield Scene((*workers,), gateway, (*upstreams.values(),))


def holds(check: Check, scene: Scene) -> bool:
    """Make one check and print what came of it."""
    say(f"{(check.__doc__ or '').splitlines()[0]}")
    scene.clear()
    start_s = time.monotonic()
    try:
        figures = check(scene)
    except ScaleFailed as err:
        say(f"  FAILED: {err}")
        return False
    say(f"  yes: {figures} ({time.monotonic() - start_s:.1f} s)")
    return True


def every_size_is_generated(scene: Scene) -> str:
    """A prompt becomes a picture of every size."""
    drawn = scene.draw([prompted(size) for size in SIZES for _ in scene.workers])
    sizes = [size_of(picture) for (picture,) in drawn]
    require(sizes == [size for size in SIZES for _ in scene.workers], f"the pictures are {', '.join(sizes)}")
    require(sum(scene.paid) == len(drawn), f"{sum(scene.paid)} pictures were paid for, not {len(drawn)}")
    return f"{len(drawn)} pictures, {len(drawn)} paid for"


def every_size_is_edited(scene: Scene) -> str:
    """A mask and its image become a picture of every size."""
    drawn = scene.draw([masked(size) for size in SIZES for _ in scene.workers])
    sizes = [size_of(picture) for (picture,) in drawn]
    require(sizes == [size for size in SIZES for _ in scene.workers], f"the pictures are {', '.join(sizes)}")
    billed = [record for upstream in scene.upstreams for record in upstream.posts if record.billed]
    require(len(billed) == len(drawn), f"{len(billed)} requests were paid for, not {len(drawn)}")
    parts = {tuple(sorted(part.field for part in record.files)) for record in billed}
    require(parts == {("image[]", "mask")}, f"the upstreams were sent the files {parts}")
    return f"{len(drawn)} pictures, {len(drawn)} paid for"


def each_upstream_sees_only_its_own_key(scene: Scene) -> str:
    """Each upstream is asked with its own key, and none sees the workers'."""
    sample(scene, 20)
    for upstream in scene.upstreams:
        seen = {record.headers.get("authorization") for record in upstream.posts}
        require(seen == {f"Bearer {upstream.api_key}"}, f"an upstream was sent {len(seen)} different keys")
        told = [value for record in upstream.posts for value in record.headers.values()]
        require(not any(MASTER_KEY in value for value in told), "the gateway's key was handed on to an upstream")
    return f"{sum(len(upstream.posts) for upstream in scene.upstreams)} requests"


def the_load_is_shared_by_weight(scene: Scene) -> str:
    """The upstreams share the load by their weights, new pictures and edits alike."""
    sample(scene, SAMPLE)
    shares = [
        [sum(record.path.endswith(route) for record in upstream.posts if record.billed) for upstream in scene.upstreams]
        for route in ("generations", "edits")
    ]
    for drawn in shares:
        for count, weight in zip(drawn, weights(), strict=True):
            part = weight / sum(weights())
            margin = TOLERANCE * math.sqrt(SAMPLE / 2 * part * (1 - part))
            expected = f"{SAMPLE / 2 * part:.0f} +- {margin:.0f}"
            require(abs(count - SAMPLE / 2 * part) <= margin, f"an upstream drew {count}, expected {expected}")
    new, edited = map(as_shares, shares)
    return f"{new} of {SAMPLE // 2} new pictures and {edited} of as many edits, by weights of {as_shares(weights())}"


def an_upstream_may_fail(scene: Scene) -> str:
    """With one upstream failing every workflow succeeds, and nothing is billed twice."""
    first = scene.upstreams[0]
    figures = []
    for words, fault in FAULTS.items():
        begin_with_a_failure(scene, fault)
        workflows = 0
        # An upstream that was not asked has shown nothing.
        while not first.posts and workflows < MOST_WORKFLOWS:
            workflows += len(drawn_and_paid_once(scene, 4))
        require(bool(first.posts), f"the upstream that {words} was never asked")
        require(scene.paid[0] == 0, f"the upstream that {words} was paid for {scene.paid[0]} pictures")
        figures.append(f"{words}: {workflows} workflows, asked {len(first.posts)} times")
    return "; ".join(figures)


def an_upstream_may_be_down(scene: Scene) -> str:
    """With one upstream down every workflow succeeds, and nothing is billed twice."""
    scene.gateway.restart()
    scene.upstreams[0].stop()
    try:
        return f"{len(drawn_and_paid_once(scene, 8))} workflows"
    finally:
        scene.upstreams[0].start()


def a_missing_key_is_explained(scene: Scene) -> str:
    """A worker without a key is told so in ComfyUI, and nothing is drawn."""
    return told_about_the_key(scene, "")


def a_wrong_key_is_explained(scene: Scene) -> str:
    """A worker with a wrong key is told so in ComfyUI, and nothing is drawn."""
    return told_about_the_key(scene, "sk-of-somebody-else-0123456789")


def a_rush_is_served(scene: Scene) -> str:
    """40 workflows from two ComfyUI processes at once all succeed."""
    start_s = time.monotonic()
    drawn_and_paid_once(scene, RUSH)
    each_s = (time.monotonic() - start_s) / RUSH
    return f"{RUSH} of {RUSH}, {as_shares(scene.paid)} by upstream, one every {each_s:.2f} s"


# In this order: after the last ones the gateway avoids an upstream for a while.
CHECKS: tuple[Check, ...] = (
    every_size_is_generated,
    every_size_is_edited,
    each_upstream_sees_only_its_own_key,
    the_load_is_shared_by_weight,
    a_rush_is_served,
    a_missing_key_is_explained,
    a_wrong_key_is_explained,
    an_upstream_may_be_down,
    an_upstream_may_fail,
)


def price_of_a_lost_answer(scene: Scene) -> str:
    """What LiteLLM costs with an upstream that draws and bills, and whose answer is then lost: a limit, no promise."""
    paid = []
    for kind in (prompted, masked):
        begin_with_a_failure(scene, "drop_after")
        workflows = 0
        while not scene.upstreams[0].posts and workflows < MOST_WORKFLOWS:
            scene.draw([kind("1024x1024")])
            workflows += 1
        paid.append(sum(scene.paid) - workflows + 1)
    return f"when an answer is lost, LiteLLM asks again: a new picture was paid for {paid[0]} times, an edit {paid[1]}"


def begin_with_a_failure(scene: Scene, fault: str) -> None:
    """Let the first upstream fail from now on, and the gateway know nothing of earlier failures."""
    scene.gateway.restart()
    scene.clear()
    scene.upstreams[0].fail(Fault(fault, times=None))


def drawn_and_paid_once(scene: Scene, count: int) -> list[list[Path]]:
    """Draw with so many workflows of all kinds, each of which has to be paid for once."""
    before = sum(scene.paid)
    kinds = itertools.cycle(itertools.product(SIZES, (prompted, masked)))
    drawn = scene.draw([make(size) for size, make in itertools.islice(kinds, count)])
    paid = sum(scene.paid) - before
    require(paid == count, f"{paid} pictures were paid for, not {count}")
    return drawn


def told_about_the_key(scene: Scene, key: str) -> str:
    """What the first worker tells its user when it has this key."""
    worker = scene.workers[0]
    worker.set_up(OPENAI_API_KEY=key)
    try:
        said = problem(worker.run(prompted("256x256"), timeout_s=RUN_TIMEOUT_S)) or "nothing: it drew a picture"
    finally:
        worker.set_up(OPENAI_API_KEY=MASTER_KEY)
    require("did not accept the key" in said and "OPENAI_API_KEY" in said, f"ComfyUI says: {said}")
    asked = sum(len(upstream.posts) for upstream in scene.upstreams)
    require(asked == 0, f"the upstreams were asked {asked} times all the same")
    return said.splitlines()[0]


def sample(scene: Scene, count: int) -> None:
    """Send requests straight to the gateway, several at a time. Raises ScaleFailed if one fails."""
    for upstream in scene.upstreams:
        upstream.answer_size = (64, 64)  # it is the requests that count here
    with ThreadPoolExecutor(SAMPLE_THREADS) as pool:
        statuses = list(pool.map(lambda number: ask(scene.gateway, number), range(count)))
    bad = [status for status in statuses if status != 200]
    require(not bad, f"{len(bad)} of {count} requests to the gateway failed, with status {bad[:1]}")


def ask(gateway: Gateway, number: int) -> int:
    """Ask the gateway for a new picture, or for an edit every other time; return the status of its answer."""
    body = {"model": "gpt-image-2", "prompt": f"sample {number}", "size": "1024x1024", "quality": "low"}
    files = {field: (f"{field}.png", SMALL_FILE, "image/png") for field in ("image", "mask")}
    route, content = ("edits", {"data": body, "files": files}) if number % 2 else ("generations", {"json": body})
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    url = f"{gateway.base_url}/images/{route}"
    return local_request("POST", url, **content, headers=headers, timeout=REQUEST_TIMEOUT_S).status_code


def prompted(size: str) -> Workflow:
    """A workflow with a prompt that was not used before: ComfyUI would not run it again."""
    return text_to_image(f"a lighthouse, number {next(_numbers)}", size=size)


def masked(size: str) -> Workflow:
    """The same for inpainting."""
    return inpainting(f"a balloon, number {next(_numbers)}", PHOTO, size=size)


def size_of(picture: Path) -> str:
    """Width and height as the node's input writes them."""
    with Image.open(picture) as image:
        return f"{image.width}x{image.height}"


def as_shares(numbers: Sequence[Any]) -> str:
    return " : ".join(map(str, numbers))


def require(condition: bool, reason: str) -> None:
    """Raise ScaleFailed with the reason unless the condition holds."""
    if not condition:
        raise ScaleFailed(reason)


if __name__ == "__main__":
    sys.exit(main())
