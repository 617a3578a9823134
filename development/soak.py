"""`python dev.py soak`: workflows through a real ComfyUI against an emulator that fails at random.

Each is run again until it ends in pictures. The promises: every run ends in pictures or in an error that tells what
became of the money, none hangs; every picture that was paid for is delivered, but for those whose answer was lost on
the way, which the error says; threads, sockets and memory of ComfyUI are flat at the end. Exits with 1 when one is
broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from development.comfyui import ComfyUI, problem
from development.console import Failed, guarded
from development.emulator import Emulator, Fault
from development.events import Listener
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
PHOTO_PX = 256

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

OUR_ERRORS = ("StatusError", "ConnectionFailed", "TimedOut", "UnusableAnswer")
SAID_LOST = ("It may have been charged", "It has probably been charged")
SAID_SAFE = ("Nothing was charged", "most likely not charged", "nothing is charged a second time")


class PromiseBroken(Failed):
    """What must never happen has happened."""

    def __init__(self, what: str) -> None:
        super().__init__(f"A promise is broken. {what}")


@dataclass
class Job:
    """One workflow on its way to its pictures."""

    number: int
    graph: Workflow
    n: int
    is_cancelled_first: bool

    @property
    def prompt(self) -> str:
        return f"soak {self.number}"


@dataclass
class Figures:
    """What happened."""

    runs: int = 0
    delivered: int = 0
    lost: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0


@dataclass(frozen=True)
class Load:
    """What ComfyUI's process holds: threads, connections to the API and MiB of memory."""

    threads: int
    sockets: int
    mib: float


def soak(count: int = WORKFLOWS, seed: int = 0) -> tuple[Figures, int, Load, Load]:
    """Run `count` workflows; what happened, the pictures paid for, and the load after warming up and at the end.

    Raises PromiseBroken.
    """
    chance = random.Random(seed)  # noqa: S311 (what repeats a run, not a secret)
    figures, warm = Figures(), None
    with Emulator(api_key=KEY, keep_files=False) as emulator, tempfile.TemporaryDirectory() as folder:
        emulator.answer_size, emulator.result = (64, 64), "mixed"
        env = {**ENVIRONMENT, "OPENAI_BASE_URL": emulator.base_url}
        with ComfyUI(Path(folder), env=env) as comfyui:
            photo = comfyui.upload("photo.png", example_photo(PHOTO_PX))
            for number in range(count):
                if warm is None and number >= count * WARM_UP:
                    warm = settled_load(comfyui, emulator)
                emulator.fail_at_random(FAULTS, PROBABILITY, seed=chance.randrange(2**31))
                finish(job(number, photo, chance), comfyui, emulator, figures)
            emulator.fail_at_random([], 0, 0)
            paid = emulator.paid_pictures
            end = settled_load(comfyui, emulator)
    check_totals(figures, paid, warm or end, end)
    return figures, paid, warm or end, end


def job(number: int, photo: str, chance: random.Random) -> Job:
    """A workflow of any kind."""
    n = chance.randint(1, 4)
    options: dict[str, Any] = {"n": n, "size": "256x256", "prefix": f"soak-{number}"}
    if chance.random() < 0.5:
        graph = inpainting(f"soak {number}", photo, **options)
    else:
        graph = text_to_image(f"soak {number}", **options)
    return Job(number, graph, n, chance.random() < CANCELLED)


def finish(job: Job, comfyui: ComfyUI, emulator: Emulator, figures: Figures) -> None:
    """Run a workflow until it has its pictures, and account for every one that was paid for. Raises PromiseBroken."""
    if job.is_cancelled_first:
        cancel(job, comfyui, emulator, figures)
    lost = 0
    for seed in range(1, MAX_RUNS + 1):
        job.graph["1"]["inputs"]["seed"] = seed  # or ComfyUI would not run it again
        with comfyui.listen() as events:
            entry = run(job, comfyui, events, figures)
        error = problem(entry)
        figures.outcomes["pictures" if error is None else kind_of(entry, error)] += 1
        if error is None:
            delivered = len(comfyui.pictures(entry))
            lost += missing(job, delivered, events)
            check_money(job.prompt, paid_for(job, emulator), delivered, lost)
            figures.delivered += delivered
            figures.lost += lost
            return
        if any(words in error for words in SAID_LOST):
            lost = paid_for(job, emulator)  # all until now: none of it has come
    raise PromiseBroken(f"{job.prompt} did not succeed in {MAX_RUNS} runs")


def cancel(job: Job, comfyui: ComfyUI, emulator: Emulator, figures: Figures) -> None:
    """Run a workflow and cancel it as soon as its call is out. The call itself goes well, and its answer is kept."""
    emulator.fail_at_random([], 0, 0)
    emulator.delay_s = 0.2
    prompt_id = comfyui.queue(job.graph)
    wait_until(lambda: any(request.fields.get("prompt") == job.prompt for request in emulator.posts), "call the API")
    comfyui.interrupt()
    entry = comfyui.wait(prompt_id, RUN_TIMEOUT_S)
    figures.runs += 1
    figures.outcomes["interrupted"] += 1
    if problem(entry) != "interrupted":
        raise PromiseBroken(f"{job.prompt} was cancelled and ended in {problem(entry)!r}")
    wait_until(
        lambda: all(request.status for request in emulator.posts if request.fields.get("prompt") == job.prompt), "end"
    )
    emulator.delay_s = 0.0


def run(job: Job, comfyui: ComfyUI, events: Listener, figures: Figures) -> Mapping[str, Any]:
    """One run of a workflow. Raises PromiseBroken when it hangs."""
    started_s = time.monotonic()
    try:
        entry = comfyui.run(job.graph, timeout_s=RUN_TIMEOUT_S, client_id=events.client_id)
    except TimeoutError as err:
        raise PromiseBroken(f"{job.prompt} hangs: {err}") from err
    figures.runs += 1
    figures.longest_s = max(figures.longest_s, time.monotonic() - started_s)
    return entry


def kind_of(entry: Mapping[str, Any], error: str) -> str:
    """The name of the error that a run ended in. Raises PromiseBroken when it is none of ours, or hides the money."""
    messages = dict(entry["status"]["messages"])
    kind = str(messages.get("execution_error", {}).get("exception_type", error)).rpartition(".")[2]
    is_silent = not any(words in error for words in (*SAID_LOST, *SAID_SAFE))
    if kind not in OUR_ERRORS or is_silent or KEY in str(entry):
        raise PromiseBroken(f"a run ended in {kind}: {error}")
    return kind


def missing(job: Job, delivered: int, events: Listener) -> int:
    """How many pictures an answer was short of, which the text on the node has to say."""
    if delivered == job.n:
        return 0
    told = f"{delivered} of {job.n} pictures came"
    if not any(told in text for text in events.texts()):
        raise PromiseBroken(f"{job.prompt} brought {delivered} of {job.n} pictures and did not say so")
    return job.n - delivered


def paid_for(job: Job, emulator: Emulator) -> int:
    """How many pictures a workflow has cost so far."""
    return sum(request.billed for request in emulator.posts if request.fields.get("prompt") == job.prompt)


def settled_load(comfyui: ComfyUI, emulator: Emulator) -> Load:
    """The load once the calls in the background are over: the least of what is seen for a while."""
    process = psutil.Process(comfyui.process.pid)
    end_s = time.monotonic() + SETTLE_S
    least = load(process, emulator)
    while time.monotonic() < end_s and (least.sockets or time.monotonic() < end_s - SETTLE_S + 2):
        time.sleep(0.2)
        now = load(process, emulator)
        least = Load(min(least.threads, now.threads), min(least.sockets, now.sockets), min(least.mib, now.mib))
    return least


def load(process: psutil.Process, emulator: Emulator) -> Load:
    sockets = [link for link in process.net_connections() if link.raddr and link.raddr.port == emulator.port]
    return Load(process.num_threads(), len(sockets), process.memory_info().rss / 2**20)


def check_totals(figures: Figures, paid: int, warm: Load, end: Load) -> None:
    """Raise PromiseBroken unless the sums agree and the load is flat."""
    check_money("all workflows", paid, figures.delivered, figures.lost)
    if end.threads > warm.threads + MAX_MORE_THREADS:
        raise PromiseBroken(f"ComfyUI has {end.threads} threads, after {warm.threads}")
    if end.sockets:
        raise PromiseBroken(f"ComfyUI's connections to the API when all is over: {end.sockets}")
    if end.mib > warm.mib + MAX_MORE_MIB:
        raise PromiseBroken(f"ComfyUI takes {end.mib:.0f} MiB, after {warm.mib:.0f}")


def check_money(what: str, paid: int, delivered: int, lost: int) -> None:
    """Raise PromiseBroken unless what was paid for has been delivered or was said to be lost."""
    if paid != delivered + lost:
        raise PromiseBroken(f"{what}: pictures paid for: {paid}, delivered: {delivered}, said to be lost: {lost}")


def wait_until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + RUN_TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise PromiseBroken(f"ComfyUI did not {what} within {RUN_TIMEOUT_S:.0f} s")
        time.sleep(0.005)


def report(figures: Figures, paid: int, warm: Load, end: Load) -> Sequence[str]:
    """The figures, a line each."""
    return [
        f"{figures.runs} runs: {', '.join(f'{count} {name}' for name, count in figures.outcomes.most_common())}",
        f"{paid} pictures paid for: {figures.delivered} delivered, {figures.lost} lost on the way, as the errors said",
        f"longest run {figures.longest_s:.1f} s; none hung",
        f"threads {warm.threads} -> {end.threads}, connections {warm.sockets} -> {end.sockets}, "
        f"memory {warm.mib:.0f} -> {end.mib:.0f} MiB, from warm to the end",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py soak", description=__doc__)
    parser.add_argument("--workflows", type=int, default=WORKFLOWS, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which failures (%(default)s)")
    options = parser.parse_args()
    return guarded(lambda: timed(options.workflows, options.seed))


def timed(count: int, seed: int) -> None:
    """Make a soak and print its figures. Raises PromiseBroken."""
    started_s = time.monotonic()
    lines = report(*soak(count, seed))
    print(f"{count} workflows in {time.monotonic() - started_s:.0f} s, seed {seed}")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
