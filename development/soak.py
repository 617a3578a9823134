"""`python dev.py soak`: workflows through a real ComfyUI against an emulator that fails at random.

Each workflow is run again until it ends in pictures. The promises: every run ends in pictures or in an error that says
whether money was spent, and none hangs; every picture that was paid for is delivered, except those whose answer was
lost on the way, which the error says; ComfyUI's threads, sockets and memory are flat at the end. Exits with 1 when a
promise is broken.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from development.comfyui import ComfyUI, problem
from development.console import Failed, guarded
from development.emulator import Emulator, Fault
from development.workflows import Workflow, example_photo, inpainting, text_to_image

WORKFLOWS = 300
PROBABILITY = 0.35  # of a request to fail
CANCELLED = 0.15  # the part of the workflows whose first run is cancelled
MAX_RUNS = 15  # of one workflow: with that many failures in a row, something else is wrong
RUN_TIMEOUT_S = 60.0
SETTLE_S = 15.0
WARM_UP = 0.2  # the part of the workflows after which ComfyUI has grown to its size
MAX_MORE_THREADS = 3
MAX_MORE_MIB = 100
KEY = "sk-emulated"

SOON = {"retry-after-ms": "20"}
FAULTS = [
    *(Fault(name, headers=SOON) for name in ("rate_limit", "conflict", "server_error", "unavailable", "bad_gateway")),
    *(Fault(name) for name in ("moderation", "quota", "unauthorized", "payment_required", "too_large", "html")),
    *(Fault(name) for name in ("empty", "wrong_shape", "truncated_json", "invalid_base64", "not_an_image", "huge_png")),
    *(Fault(name) for name in ("drop_before", "drop_after", "drop_during", "missing_picture", "expired_picture")),
    Fault("slow", delay_s=1.5),
    Fault("drip", interval_s=0.2),
]
ENVIRONMENT = {
    "OPENAI_API_KEY": KEY,
    "DALLE2_MODEL": "gpt-image-2",
    "DALLE2_CONNECT_TIMEOUT_S": "1",
    "DALLE2_READ_TIMEOUT_S": "1",
}
SHOWN_AS = "RuntimeError"  # an error of the package, as ComfyUI shows it
SAYS_LOST = re.compile(r"(may have|probably) been charged")


class PromiseBroken(Failed):
    """What must never happen has happened."""


@dataclass(frozen=True)
class Load:
    """What ComfyUI's process holds: threads, connections to the API and MiB of memory."""

    threads: int
    sockets: int
    mib: float


class Soak:
    """Runs workflows and counts what comes of them. All its methods raise PromiseBroken."""

    def __init__(self, comfyui: ComfyUI, emulator: Emulator, seed: int) -> None:
        self.comfyui, self.emulator = comfyui, emulator
        self.chance = random.Random(seed)  # noqa: S311 (what repeats a run, not a secret)
        self.photo = comfyui.upload("photo.png", example_photo(256))
        self.outcomes: Counter[str] = Counter()
        self.delivered = self.lost = 0
        self.longest_s = 0.0

    def finish(self, number: int) -> None:
        """Run a workflow of any kind until it has its pictures, and account for every one that was paid for."""
        prompt, n = f"soak {number}", self.chance.randint(1, 4)
        options: dict[str, Any] = {"n": n, "size": "256x256", "prefix": f"soak-{number}"}
        is_edit = self.chance.random() < 0.5
        graph = inpainting(prompt, self.photo, **options) if is_edit else text_to_image(prompt, **options)
        if self.chance.random() < CANCELLED:
            self.cancel(graph)
        self.emulator.fail_at_random(FAULTS, PROBABILITY, seed=self.chance.randrange(2**31))
        lost = 0
        for seed in range(1, MAX_RUNS + 1):
            graph["1"]["inputs"]["seed"] = seed  # or ComfyUI would not run it again
            entry, texts = self.run(graph)
            error = problem(entry)
            if error is None:
                return self.account(prompt, n, len(self.comfyui.pictures(entry)), lost, texts)
            self.outcomes[kind_of(entry, error)] += 1
            if SAYS_LOST.search(error):
                lost = self.paid_for(prompt)  # all until now: none of it has come
        raise PromiseBroken(f"{prompt} did not succeed in {MAX_RUNS} runs")

    def run(self, graph: Workflow) -> tuple[Mapping[str, Any], list[str]]:
        """One run of a workflow: its entry in the history, and the texts on its nodes."""
        start_s = time.monotonic()
        with self.comfyui.listen() as events:
            try:
                entry = self.comfyui.run(graph, timeout_s=RUN_TIMEOUT_S, client_id=events.client_id)
            except TimeoutError as err:
                raise PromiseBroken(f"a workflow hangs: {err}") from err
        self.longest_s = max(self.longest_s, time.monotonic() - start_s)
        return entry, events.texts()

    def account(self, prompt: str, n: int, delivered: int, lost: int, texts: list[str]) -> None:
        """Note the pictures that a workflow ended in; the node has to say when some are missing."""
        self.outcomes["pictures"] += 1
        if delivered < n:
            if not any(f"{delivered} of {n}" in text for text in texts):
                raise PromiseBroken(f"{prompt} brought {delivered} of {n} pictures and did not say so")
            lost += n - delivered
        check_money(prompt, self.paid_for(prompt), delivered, lost)
        self.delivered += delivered
        self.lost += lost

    def cancel(self, graph: Workflow) -> None:
        """Run a workflow and cancel it as soon as its call is out; the call goes well, and its answer is kept."""
        prompt = graph["1"]["inputs"]["prompt"]
        self.emulator.fail_at_random([], 0, 0)
        self.emulator.delay_s = 0.2
        prompt_id = self.comfyui.queue(graph)
        wait_until(lambda: self.calls(prompt) > 0, "call the API")
        self.comfyui.interrupt()
        entry = self.comfyui.wait(prompt_id, RUN_TIMEOUT_S)
        if problem(entry) != "interrupted":
            raise PromiseBroken(f"{prompt} was cancelled and ended in {problem(entry)!r}")
        self.outcomes["interrupted"] += 1
        wait_until(lambda: self.calls(prompt, answered=True) == self.calls(prompt), "end the call")
        self.emulator.delay_s = 0.0

    def calls(self, prompt: str, *, answered: bool = False) -> int:
        """How many requests a workflow has made."""
        made = [request for request in self.emulator.posts if request.fields.get("prompt") == prompt]
        return sum(bool(request.status) for request in made) if answered else len(made)

    def paid_for(self, prompt: str) -> int:
        """How many pictures a workflow has cost so far."""
        return sum(request.billed for request in self.emulator.posts if request.fields.get("prompt") == prompt)

    def load(self) -> Load:
        """The least that is seen for a while, once the calls in the background are over."""
        self.emulator.fail_at_random([], 0, 0)
        process = psutil.Process(self.comfyui.process.pid)
        start_s = time.monotonic()
        seen: list[Load] = []
        while time.monotonic() < start_s + 2 or (seen[-1].sockets and time.monotonic() < start_s + SETTLE_S):
            links = [link for link in process.net_connections() if link.raddr and link.raddr.port == self.emulator.port]
            seen.append(Load(process.num_threads(), len(links), process.memory_info().rss / 2**20))
            time.sleep(0.2)
        return Load(min(s.threads for s in seen), seen[-1].sockets, min(s.mib for s in seen))


def kind_of(entry: Mapping[str, Any], error: str) -> str:
    """How ComfyUI shows the error of a run. Raises PromiseBroken when it is none of ours, or hides the money."""
    messages = dict(entry["status"]["messages"])
    kind = str(messages.get("execution_error", {}).get("exception_type", error))
    if kind != SHOWN_AS or "charged" not in error or KEY in str(entry):
        raise PromiseBroken(f"a run ended in {kind}: {error}")
    return kind


def check_money(what: str, paid: int, delivered: int, lost: int) -> None:
    """Raise PromiseBroken unless what was paid for has been delivered or was said to be lost."""
    if paid != delivered + lost:
        raise PromiseBroken(f"{what}: pictures paid for: {paid}, delivered: {delivered}, said to be lost: {lost}")


def check_load(warm: Load, end: Load) -> None:
    """Raise PromiseBroken unless the load is flat."""
    if end.threads > warm.threads + MAX_MORE_THREADS or end.sockets or end.mib > warm.mib + MAX_MORE_MIB:
        raise PromiseBroken(f"ComfyUI holds more at the end than when it was warm: {end}, after {warm}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + RUN_TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise PromiseBroken(f"ComfyUI did not {what} within {RUN_TIMEOUT_S:.0f} s")
        time.sleep(0.005)


def soak(count: int = WORKFLOWS, seed: int = 0) -> Soak:
    """Run `count` workflows and print what happened. Raises PromiseBroken."""
    start_s = time.monotonic()
    with Emulator(api_key=KEY, keep_files=False) as emulator, tempfile.TemporaryDirectory() as folder:
        emulator.answer_size, emulator.result = (64, 64), "mixed"
        with ComfyUI(Path(folder), env={**ENVIRONMENT, "OPENAI_BASE_URL": emulator.base_url}) as comfyui:
            made = Soak(comfyui, emulator, seed)
            warm_up = round(count * WARM_UP)
            for number in range(warm_up):
                made.finish(number)
            warm = made.load()
            for number in range(warm_up, count):
                made.finish(number)
            end = made.load()
        check_money("all workflows", emulator.paid_pictures, made.delivered, made.lost)
        check_load(warm, end)
    print(f"{count} workflows in {time.monotonic() - start_s:.0f} s, seed {seed}")
    print(f"{made.outcomes.total()} runs: {', '.join(f'{n} {name}' for name, n in made.outcomes.most_common())}")
    print(
        f"paid for: {made.delivered + made.lost} pictures; {made.delivered} delivered, {made.lost} lost, as errors said"
    )
    print(f"longest run: {made.longest_s:.1f} s; when warm: {warm}; at the end: {end}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py soak", description=__doc__)
    parser.add_argument("--workflows", type=int, default=WORKFLOWS, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which failures (%(default)s)")
    options = parser.parse_args()

    def job() -> None:
        soak(options.workflows, options.seed)

    return guarded(job)


if __name__ == "__main__":
    sys.exit(main())
