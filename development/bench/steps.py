"""The steps of a call, ours and ComfyUI's own, in one process: `python -m development.bench.steps`, started by the benchmark.

It prints JSON: seconds of each round, measured in alternation, and bytes; or what one side takes in memory.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import torch

from development.bench import pictures
from development.bench.rivals import OwnNode, Sdk
from development.package import load_package

SIDES = ("theirs", "theirs, unlogged", "ours", "sdk")
LARGE_PX = 4096
COUNT = 8
BODY_BYTES = 21_000_000
Work = Callable[[], Any]


@dataclass(frozen=True)
class Tools:
    """What the steps work with: both codes, and where the emulator and the SDK are."""

    own: OwnNode
    server: str | None
    sdk: Sdk | None


Contest = dict[str, Work]


def encode(picture: Callable[[int], pictures.Floats], side: int, tools: Tools) -> Contest:
    """Image and mask to an RGBA PNG file."""
    from dalle2.image_codec import encode_rgba_png

    image, mask = torch.from_numpy(picture(side)), torch.from_numpy(pictures.mask(side))
    return {"theirs": partial(tools.own.encode, image, mask), "ours": partial(encode_rgba_png, image, mask)}


def decode(count: int, side: int, tools: Tools) -> Contest:
    """PNG files to one tensor."""
    from dalle2.image_codec import decode_images

    files = pictures.png_files(count, side)
    return {"theirs": partial(tools.own.decode, files), "ours": partial(decode_images, files)}


def body(tools: Tools) -> Contest:
    """The body of an answer to the bytes of its pictures."""
    from dalle2.models import ImagesResponse

    content = np.random.default_rng(1).bytes(BODY_BYTES * 3 // 4 // COUNT)
    items = [{"b64_json": base64.b64encode(content).decode()} for _ in range(COUNT)]
    answer = json.dumps({"created": 1, "data": items}).encode()
    contest: Contest = {
        "theirs": partial(tools.own.read, answer),
        "theirs, unlogged": partial(tools.own.read, answer, logged=False),
        "ours": partial(ImagesResponse.parse, answer),
    }
    return contest if tools.sdk is None else {**contest, "sdk": partial(tools.sdk.read, answer)}


def urls(tools: Tools, *, only_download: bool = False) -> Contest:
    """The URLs of an answer to one tensor; `ours` alone for the downloads by themselves."""
    from dalle2.api_client import ImagesClient
    from dalle2.drawing import MAX_DOWNLOADS_AT_ONCE
    from dalle2.image_codec import PictureBatch
    from dalle2.threads import side_by_side

    order = {"model": "dall-e-2", "prompt": "a harbour", "n": COUNT, "size": "1024x1024", "response_format": "url"}
    answer = requests.post(f"{tools.server}/images/generations", json=order, timeout=60)
    answer.raise_for_status()
    addresses = [item["url"] for item in answer.json()["data"]]

    def ours() -> torch.Tensor:
        batch = PictureBatch(COUNT, 1024, 1024)
        with ImagesClient(tools.server or "") as client:

            def fetch(place: int) -> None:
                content = client.download(addresses[place])
                if not only_download:
                    batch.put(place, content)

            side_by_side(fetch, range(COUNT), limit=MAX_DOWNLOADS_AT_ONCE)
        return batch.tensor

    return {"ours": ours} if only_download else {"theirs": partial(tools.own.fetch, addresses), "ours": ours}


STEPS: dict[str, Callable[[Tools], Contest]] = {
    "encode-photo": partial(encode, pictures.photo, pictures.BASE_PX),
    "encode-flat": partial(encode, pictures.flat_art, pictures.BASE_PX),
    "encode-large": partial(encode, pictures.photo, LARGE_PX),
    "decode": partial(decode, COUNT, pictures.BASE_PX),
    "body": body,
    "urls": urls,
    "downloads": partial(urls, only_download=True),
    **{f"encode-{side}": partial(encode, pictures.photo, side) for side in pictures.SIZES_PX},
    **{f"decode-{side}": partial(decode, 1, side) for side in pictures.SIZES_PX},
}


def timed(contest: Contest, rounds: int) -> dict[str, Any]:
    """Seconds of each round by side, after one to warm up, and the bytes of what came out if it is a file."""
    outcomes = {side: work() for side, work in contest.items()}
    seconds: dict[str, list[float]] = {side: [] for side in contest}
    for _ in range(rounds):
        for side, work in contest.items():
            start_s = time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - start_s)
    sizes = {side: len(outcome) for side, outcome in outcomes.items() if isinstance(outcome, bytes)}
    return {"seconds": seconds, "bytes": sizes}


def peak_mib(work: Work) -> float:
    """What the work takes at the most beyond what the process had before."""
    gc.collect()
    with suppress(OSError, AttributeError):  # Linux: give back and forget what the preparations took
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before_mib = _peak_so_far_mib()
    outcome = work()
    taken_mib = _peak_so_far_mib() - before_mib
    del outcome
    return taken_mib


def _peak_so_far_mib() -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m development.bench.steps", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=SIDES)
    parser.add_argument("--server")
    parser.add_argument("--sdk", type=Path)
    options = parser.parse_args()
    own = OwnNode()
    load_package()
    contest = STEPS[options.step](Tools(own, options.server, Sdk(options.sdk) if options.sdk else None))
    if options.peak:
        print(json.dumps({"peak_mib": peak_mib(contest[options.peak])}))
    else:
        print(json.dumps(timed(contest, options.rounds)))


if __name__ == "__main__":
    main()
