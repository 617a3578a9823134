"""`python dev.py bench`: how long users wait for this package, against ComfyUI's own node `OpenAIDalle2`.

Two ComfyUIs run side by side, one with its own node, one with this package, and ask the same server, which answers from
memory after a known time. They take turns; a ratio is the median of the ratios of the rounds. Times are those that
ComfyUI notes in its history. The table is printed, and with `--write` also written to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from aiohttp import web
from PIL import Image

from development.app_server import AppServer
from development.comfyui import ComfyUI, comfyui_source, problem
from development.console import Failed, guarded, say
from development.package import ROOT
from development.workflows import Workflow, example_photo

PAGE = ROOT / "docs" / "benchmarks.md"
MARKER = "<!-- table -->"  # what is below it is replaced
TITLES = "| what | ComfyUI's own node, or as said | this package | ratio |\n|---|---|---|---|"
BASE_PATH = "/proxy/openai"
RUN_TIMEOUT_S = 600.0
API_S = 0.3  # what the API takes for an answer, where the time that the node adds is measured
SLOW_API_S = 2.0  # the same, where several calls run at the same time
CANCELLED_API_S = 5.0
SLOW_URL_S = 0.3
QUEUE = 100
EDIT_PX, LARGE_EDIT_PX = 1024, 4096
MIB = 2**20
# What ComfyUI has loaded already is loaded before.
IMPORT = """
import time, torch, numpy, PIL.Image, pydantic, pydantic_settings, requests
from development.package import load_package
start_s = time.perf_counter()
load_package()
print(1000 * (time.perf_counter() - start_s))
"""
Measure = Callable[[], float]
_numbers = itertools.count(1)


@functools.cache
def photo(px: int) -> bytes:
    """A PNG file, `px` pixels square, with the noise of a camera and, in its alpha, a mask."""
    small = Image.open(io.BytesIO(example_photo(min(px, 1024))))
    pixels = np.asarray(small.resize((px, px), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels[..., :3] += np.random.default_rng(7).integers(-2, 3, (px, px, 1), np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@functools.cache
def picture(size: str) -> bytes:
    """The opaque PNG file that the API draws for a size such as `1024x1024`."""
    file = io.BytesIO()
    Image.open(io.BytesIO(photo(int(size.partition("x")[0])))).convert("RGB").save(file, "PNG")
    return file.getvalue()


@functools.cache
def answer(size: str, n: int, url: str) -> bytes:
    """The body of an answer with `n` pictures, as base64, or as URLs below `url` if there is one."""
    item = {"url": f"{url}/pictures/{size}"} if url else {"b64_json": base64.b64encode(picture(size)).decode()}
    return json.dumps({"created": 1, "data": [item] * n}).encode()


class Server(AppServer):
    """The API: how long it takes for an answer, whether that has URLs, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__(self.application)
        self.delay_s, self.with_urls, self.calls = 0.0, False, 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=256 * MIB)
        app.router.add_post(BASE_PATH + "/images/{route}", self._draw)
        app.router.add_get("/pictures/{size}", self._send_picture)
        return app

    async def _draw(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.calls += 1
        fields = json.loads(body) if request.content_type == "application/json" else {}
        url = self.origin if self.with_urls else ""
        content = answer(fields.get("size", "1024x1024"), fields.get("n", 1), url)
        await asyncio.sleep(self.delay_s)
        return web.Response(body=content, content_type="application/json")

    async def _send_picture(self, request: web.Request) -> web.Response:
        content = picture(request.match_info["size"])
        await asyncio.sleep(SLOW_URL_S)
        return web.Response(body=content, content_type="image/png")


def graph(px: int = 1024, *, n: int = 1, nodes: int = 1, photo_px: int = 0) -> Workflow:
    """`nodes` times the node, each with one behind it that takes the pictures; with a photo and its mask as input."""
    made: Workflow = {}
    for place in range(nodes):
        number = next(_numbers)  # no two graphs are alike, or an answer to one could be used for another
        inputs: dict[str, Any] = {"prompt": f"harbour {number}", "seed": number, "size": f"{px}x{px}", "n": n}
        if photo_px:
            inputs |= {"image": ["photo", 0], "mask": ["photo", 1]}
        made[f"draw{place}"] = {"class_type": "OpenAIDalle2", "inputs": inputs}
        made[f"take{place}"] = {"class_type": "PreviewAny", "inputs": {"source": [f"draw{place}", 0]}}
    if photo_px:
        # It stays in ComfyUI's cache: only the first run loads it.
        made["photo"] = {"class_type": "LoadImage", "inputs": {"image": f"{photo_px}.png"}}
    return made


def seconds(comfyui: ComfyUI, graphs: list[Workflow]) -> float:
    """From the start of the first graph to the end of the last; all are queued at once. Raises Failed."""
    prompt_ids = [comfyui.queue(graph) for graph in graphs]
    entries = [comfyui.wait(prompt_id, RUN_TIMEOUT_S) for prompt_id in prompt_ids]
    for entry in entries:
        if reason := problem(entry):
            raise Failed(f"A run of the benchmark failed: {reason}")
    return (max(stamps_ms(entries[-1])) - min(stamps_ms(entries[0]))) / 1000


def stamps_ms(entry: dict[str, Any]) -> list[int]:
    """When the steps of a run happened, by ComfyUI's clock."""
    return [details["timestamp"] for _, details in entry["status"]["messages"]]


def run_s(comfyui: ComfyUI, *, nodes: int = 1, n: int = 1) -> float:
    return seconds(comfyui, [graph(nodes=nodes, n=n)])


def added_s(comfyui: ComfyUI, px: int = 1024, *, n: int = 1, photo_px: int = 0) -> float:
    """What one node takes beyond the API's own time."""
    return seconds(comfyui, [graph(px, n=n, photo_px=photo_px)]) - API_S


def queue_s(comfyui: ComfyUI, px: int) -> float:
    return seconds(comfyui, [graph(px) for _ in range(QUEUE)])


def peak_mib(comfyui: ComfyUI) -> float:
    """What the process takes during a large edit, beyond what it holds before."""
    process = psutil.Process(comfyui.process.pid)
    seen, is_over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    seconds(comfyui, [graph(photo_px=LARGE_EDIT_PX)])
    is_over.set()
    watcher.join()
    return (max(seen) - seen[0]) / MIB


class Bench:
    """ComfyUI with its own node, ComfyUI with this package, and the server. `effort` 1 stands for the usual rounds."""

    def __init__(self, theirs: ComfyUI, ours: ComfyUI, server: Server, effort: float) -> None:
        self.theirs, self.ours, self.server, self.effort = theirs, ours, server, effort
        self.use_model("gpt-image-2")

    def use_model(self, model: str) -> None:
        """Let the package use the server with this model."""
        base_url = self.server.origin + BASE_PATH
        self.ours.set_up(OPENAI_BASE_URL=base_url, OPENAI_API_KEY="sk-bench", DALLE2_MODEL=model)

    def cancel_s(self, comfyui: ComfyUI) -> float:
        """From Cancel to the end of a run that waits for the API."""
        before = self.server.calls
        prompt_id = comfyui.queue(graph())
        while self.server.calls == before:
            time.sleep(0.01)
        # At any moment of a second: ComfyUI's own node looks at certain ones.
        time.sleep(0.1 + next(_numbers) % 10 / 10)
        cancelled_s = time.time()
        comfyui.interrupt()
        return max(stamps_ms(comfyui.wait(prompt_id, RUN_TIMEOUT_S))) / 1000 - cancelled_s

    def rows_of_times(self) -> Iterator[str]:
        """What users wait for."""
        self.server.delay_s = API_S
        for px in (256, 512):
            what = f"an answer of 1024² delivered at {px}², beyond the API's time"
            yield self.row(what, 25, partial(added_s, self.ours), partial(added_s, self.ours, px), base="at 1024²: ")
        yield self.both("time added to the API's own, one picture of 1024²", 25, added_s)
        yield self.both("the same, 8 pictures in one answer", 9, partial(added_s, n=8))
        for px in (EDIT_PX, LARGE_EDIT_PX):
            yield self.both(f"an edit of {px}², all but the API's time", 11, partial(added_s, photo_px=px))
        self.server.delay_s = 0
        # The package asks for small pictures only where the model draws them.
        for px, model in ((256, "dall-e-2"), (1024, "gpt-image-2")):
            self.use_model(model)
            yield self.both(f"{QUEUE} workflows in the queue, {px}² from {px}²", 5, partial(queue_s, px=px))
        self.server.with_urls = True
        yield self.both(f"8 URLs of {1000 * SLOW_URL_S:.0f} ms each to a tensor", 5, partial(run_s, n=8))
        self.server.delay_s, self.server.with_urls = SLOW_API_S, False
        for comfyui, whose in ((self.theirs, "of ComfyUI's own nodes"), (self.ours, "nodes of this package")):
            what = f"8 {whose} in one graph, the API takes {SLOW_API_S:g} s"
            yield self.row(what, 4, partial(run_s, comfyui), partial(run_s, comfyui, nodes=8), base="one: ")
        self.server.delay_s = CANCELLED_API_S
        yield self.both("from Cancel to the end of a run that waits for the API", 10, self.cancel_s)

    def row_of_memory(self) -> str:
        what = f"memory that an edit of {LARGE_EDIT_PX}² takes at the most beyond its input"
        return self.both(what, 5, peak_mib, unit="MiB")

    def both(self, what: str, rounds: int, measure: Callable[[ComfyUI], float], *, unit: str = "ms") -> str:
        """The row of a measure that is taken on both sides."""
        return self.row(what, rounds, partial(measure, self.theirs), partial(measure, self.ours), unit=unit)

    def row(self, what: str, rounds: int, first: Measure, second: Measure, *, base: str = "", unit: str = "ms") -> str:
        """The row of two measures that take turns; each is taken once before, which does not count."""
        first()
        second()
        pairs = [(first(), second()) for _ in range(max(3, round(rounds * self.effort)))]
        left, right = (median(values) * (1000 if unit == "ms" else 1) for values in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        return f"| {what} | {base}{left:,.0f} {unit} | {right:,.0f} {unit} | {ratio:.2f} |"


@contextmanager
def both_sides(folder: Path, effort: float, **env: str) -> Iterator[Bench]:
    """A bench, whose ComfyUIs have the photos."""
    with (
        Server() as server,
        ComfyUI(folder / "theirs", env=env, args=["--comfy-api-base", server.origin], has_package=False) as theirs,
        ComfyUI(folder / "ours", env=env) as ours,
    ):
        for comfyui in (theirs, ours):
            for px in (EDIT_PX, LARGE_EDIT_PX):
                comfyui.upload(f"{px}.png", photo(px))
        yield Bench(theirs, ours, server, effort)


def all_rows(folder: Path, effort: float) -> Iterator[str]:
    with both_sides(folder / "times", effort) as bench:
        yield from bench.rows_of_times()
    # Here, freed memory goes back at once, so that a peak does not hide in what was held already.
    with both_sides(folder / "memory", effort, MALLOC_MMAP_THRESHOLD_="65536") as bench:
        yield bench.row_of_memory()
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as on a user's machine: only the first time compiles
    found_ms = []
    for _ in range(6):
        run = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, env=env, check=True, capture_output=True)
        found_ms.append(float(run.stdout))
    yield f"| import of the package | - | {median(found_ms[1:]):.0f} ms | - |"


def machine() -> str:
    """What was measured where."""
    code = (comfyui_source() / "comfyui_version.py").read_text(encoding="utf-8")
    comfyui = re.findall(r'__version__ = "(.*)"', code)[0]
    where = [f"{os.cpu_count()} cores", platform.system(), f"Python {platform.python_version()}", f"ComfyUI {comfyui}"]
    where += [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "pillow", "requests")]
    if hasattr(os, "getloadavg"):
        where.append(f"load {os.getloadavg()[0]:.1f} when it began")
    return f"Measured on {time.strftime('%Y-%m-%d')}: {', '.join(where)}."


def measure(effort: float, *, write: bool) -> None:
    """Measure, print the table, and write it to the page if that is wanted."""
    lines = [f"{machine()}\n", TITLES]
    say("\n".join(lines))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for row in all_rows(Path(folder), effort):
            say(row)
            lines.append(row)
    if write:
        text = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
        PAGE.write_text("\n".join([text + MARKER, "", *lines, ""]), encoding="utf-8")
        say(f"Written: {PAGE}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only three rounds of everything")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    return guarded(lambda: measure(0 if options.quick else 1, write=options.write))


if __name__ == "__main__":
    sys.exit(main())
