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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image

from development.app_server import AppServer
from development.comfyui import ComfyUI, comfyui_source, problem
from development.console import Failed, guarded, say
from development.package import ROOT
from development.workflows import Workflow, example_photo

PAGE = ROOT / "docs" / "benchmarks.md"
MARKER = "<!-- table -->"  # what is below it is replaced
TITLES = "| what | ComfyUI's own node | this package | ratio |\n|---|---|---|---|"
BASE_PATH = "/proxy/openai"
RUN_TIMEOUT_S = 600.0
API_S = 0.3  # what the API takes for an answer, where the time that the node adds is measured
CANCELLED_API_S = 5.0
SLOW_URL_S = 0.3
QUEUE = 100
EDIT_PX, LARGE_EDIT_PX = 1024, 4096
MIB = 2**20
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


def graph(px: int = 1024, *, n: int = 1, photo_px: int = 0) -> Workflow:
    """The node, and one behind it that takes the pictures; with a photo and its mask as input."""
    number = next(_numbers)  # no two graphs are alike, or an answer to one could be used for another
    inputs: dict[str, Any] = {"prompt": f"harbour {number}", "seed": number, "size": f"{px}x{px}", "n": n}
    made: Workflow = {
        "draw": {"class_type": "OpenAIDalle2", "inputs": inputs},
        "take": {"class_type": "PreviewAny", "inputs": {"source": ["draw", 0]}},
    }
    if photo_px:
        inputs |= {"image": ["photo", 0], "mask": ["photo", 1]}
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


def run_s(comfyui: ComfyUI, *, n: int = 1, photo_px: int = 0) -> float:
    return seconds(comfyui, [graph(n=n, photo_px=photo_px)])


def added_s(comfyui: ComfyUI, *, n: int = 1, photo_px: int = 0) -> float:
    """What a node takes beyond the API's own time."""
    return run_s(comfyui, n=n, photo_px=photo_px) - API_S


def queue_s(comfyui: ComfyUI, px: int) -> float:
    return seconds(comfyui, [graph(px) for _ in range(QUEUE)])


class Bench:
    """ComfyUI with its own node, ComfyUI with this package, and the server. Each measure is taken so many times."""

    def __init__(self, theirs: ComfyUI, ours: ComfyUI, server: Server, rounds: int) -> None:
        self.theirs, self.ours, self.server, self.rounds = theirs, ours, server, rounds
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

    def rows(self) -> Iterator[str]:
        """What users wait for."""
        self.server.delay_s = API_S
        yield self.row("time added to the API's own, one picture of 1024²", added_s)
        yield self.row("the same, 8 pictures in one answer", partial(added_s, n=8))
        for px in (EDIT_PX, LARGE_EDIT_PX):
            yield self.row(f"an edit of {px}², all but the API's time", partial(added_s, photo_px=px))
        self.server.delay_s = 0
        # The package asks for small pictures only where the model draws them.
        for px, model in ((256, "dall-e-2"), (1024, "gpt-image-2")):
            self.use_model(model)
            yield self.row(f"{QUEUE} workflows in the queue, {px}² from {px}²", partial(queue_s, px=px))
        self.server.with_urls = True
        yield self.row(f"8 URLs of {1000 * SLOW_URL_S:.0f} ms each to a tensor", partial(run_s, n=8))
        self.server.delay_s, self.server.with_urls = CANCELLED_API_S, False
        yield self.row("from Cancel to the end of a run that waits for the API", self.cancel_s)

    def row(self, what: str, measure: Callable[[ComfyUI], float]) -> str:
        """The row of a measure, for which both take turns; each is measured once before, which does not count."""
        pairs = [(measure(self.theirs), measure(self.ours)) for _ in range(1 + self.rounds)][1:]
        left, right = (1000 * median(values) for values in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        return f"| {what} | {left:,.0f} ms | {right:,.0f} ms | {ratio:.2f} |"


@contextmanager
def both_sides(folder: Path, rounds: int) -> Iterator[Bench]:
    """A bench, whose ComfyUIs have the photos."""
    with (
        Server() as server,
        ComfyUI(folder / "theirs", args=["--comfy-api-base", server.origin], has_package=False) as theirs,
        ComfyUI(folder / "ours") as ours,
    ):
        for comfyui in (theirs, ours):
            for px in (EDIT_PX, LARGE_EDIT_PX):
                comfyui.upload(f"{px}.png", photo(px))
        yield Bench(theirs, ours, server, rounds)


def machine() -> str:
    """What was measured where."""
    code = (comfyui_source() / "comfyui_version.py").read_text(encoding="utf-8")
    comfyui = re.findall(r'__version__ = "(.*)"', code)[0]
    where = [f"{os.cpu_count()} cores", platform.system(), f"Python {platform.python_version()}", f"ComfyUI {comfyui}"]
    where += [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "pillow", "requests")]
    return f"Measured on {time.strftime('%Y-%m-%d')}: {', '.join(where)}."


def measure(rounds: int, *, write: bool) -> None:
    """Measure, print the table, and write it to the page if that is wanted."""
    lines = [f"{machine()}\n", TITLES]
    say("\n".join(lines))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        both_sides(Path(folder), rounds) as bench,
    ):
        for row in bench.rows():
            say(row)
            lines.append(row)
    if write:
        text = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
        PAGE.write_text("\n".join([text + MARKER, "", *lines, ""]), encoding="utf-8")
        say(f"Written: {PAGE}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python dev.py bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (%(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    return guarded(lambda: measure(options.rounds, write=options.write))


if __name__ == "__main__":
    sys.exit(main())
