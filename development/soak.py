"""`python dev.py soak`: workflows through a real ComfyUI against an emulator that fails at random.

Each workflow is run again until it ends in pictures. The promises: every run ends in pictures or in an error that says
whether money was spent, and none hangs; every picture that was paid for is delivered, except those whose answer was
lost on the way, which the error says; ComfyUI's threads, sockets and memory are flat at the end.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from development.comfyui import ComfyUI, problem
from development.emulator import Emulator, Fault, RequestRecord
from development.workflows import Workflow, example_photo, inpainting, text_to_image

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


class Soak:
    """Runs workflows and counts what comes of them."""

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
        raise AssertionError(f"{prompt} did not succeed in {MAX_RUNS} runs")

    def run(self, graph: Workflow) -> tuple[Mapping[str, Any], list[str]]:
        """One run of a workflow: its entry in the history, and the texts on its nodes."""
        start_s = time.monotonic()
        with self.comfyui.listen() as events:
            entry = self.comfyui.run(graph, timeout_s=RUN_TIMEOUT_S, client_id=events.client_id)
        self.longest_s = max(self.longest_s, time.monotonic() - start_s)
        return entry, events.texts()

    def account(self, prompt: str, n: int, delivered: int, lost: int, texts: list[str]) -> None:
        """Note the pictures that a workflow ended in; the node has to say when some are missing."""
        self.outcomes["pictures"] += 1
        if delivered < n:
            assert any(f"{delivered} of {n}" in text for text in texts), texts
            lost += n - delivered
        assert self.paid_for(prompt) == delivered + lost
        self.delivered += delivered
        self.lost += lost

    def cancel(self, graph: Workflow) -> None:
        """Run a workflow and cancel it as soon as its call is out; the call goes well, and its answer is kept."""
        prompt = graph["1"]["inputs"]["prompt"]
        self.emulator.fail_at_random([], 0, 0)
        self.emulator.delay_s = 0.2
        prompt_id = self.comfyui.queue(graph)
        self.comfyui.wait_until(lambda: bool(self.calls(prompt)), RUN_TIMEOUT_S, "call the API")
        self.comfyui.interrupt()
        assert problem(self.comfyui.wait(prompt_id, RUN_TIMEOUT_S)) == "interrupted"
        self.outcomes["interrupted"] += 1
        self.comfyui.wait_until(lambda: all(call.status for call in self.calls(prompt)), RUN_TIMEOUT_S, "end the call")
        self.emulator.delay_s = 0.0

    def calls(self, prompt: str) -> list[RequestRecord]:
        """The requests that a workflow has made."""
        return [request for request in self.emulator.posts if request.fields.get("prompt") == prompt]

    def paid_for(self, prompt: str) -> int:
        """How many pictures a workflow has cost so far."""
        return sum(request.billed for request in self.calls(prompt))

    def load(self) -> tuple[int, float]:
        """ComfyUI's threads and MiB of memory, once the calls in the background are over."""
        self.emulator.fail_at_random([], 0, 0)
        process = psutil.Process(self.comfyui.process.pid)

        def has_no_connection() -> bool:
            links = process.net_connections()
            return not any(link.raddr and link.raddr.port == self.emulator.port for link in links)

        self.comfyui.wait_until(has_no_connection, SETTLE_S, "close its connections to the API")
        time.sleep(2)  # the last threads end
        return process.num_threads(), process.memory_info().rss / 2**20


def kind_of(entry: Mapping[str, Any], error: str) -> str:
    """How ComfyUI shows the error of a run, which has to be one of ours and to say what it cost."""
    messages = dict(entry["status"]["messages"])
    kind = str(messages.get("execution_error", {}).get("exception_type", error))
    assert kind == SHOWN_AS and "charged" in error and KEY not in str(entry), f"a run ended in {kind}: {error}"
    return kind


def check(folder: Path, count: int, seed: int) -> None:
    """Run `count` workflows, print what happened, and check the promises that are about all of them."""
    start_s = time.monotonic()
    with Emulator(api_key=KEY) as emulator:
        emulator.answer_size, emulator.result = (64, 64), "mixed"
        with ComfyUI(folder, env={**ENVIRONMENT, "OPENAI_BASE_URL": emulator.base_url}) as comfyui:
            made = Soak(comfyui, emulator, seed)
            warm_up = round(count * WARM_UP)
            for number in range(warm_up):
                made.finish(number)
            warm_threads, warm_mib = made.load()
            for number in range(warm_up, count):
                made.finish(number)
            threads, mib = made.load()
    print(f"{count} workflows in {time.monotonic() - start_s:.0f} s, seed {seed}")
    print(f"{made.outcomes.total()} runs: {', '.join(f'{n} {name}' for name, n in made.outcomes.most_common())}")
    print(f"{made.delivered} pictures were delivered, {made.lost} were lost, as errors said")
    print(f"longest run: {made.longest_s:.1f} s")
    print(f"threads: {warm_threads}, later {threads}; memory: {warm_mib:.0f} MiB, later {mib:.0f} MiB")
    assert emulator.paid_pictures == made.delivered + made.lost
    assert made.outcomes["pictures"] == count and made.outcomes.total() > count
    assert threads <= warm_threads + MAX_MORE_THREADS
    assert mib <= warm_mib + MAX_MORE_MIB
