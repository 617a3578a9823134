"""The table: each step measured on both sides and held against its goal."""

from __future__ import annotations

import base64
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from development.bench.runs import Side, graph, idle_graph, imports
from development.emulator import Emulator
from development.package import ROOT

PICTURE_DELAY_S = 0.3
API_DELAY_S = 2.0
TOGETHER = 8
MIN_ENCODE_PHOTO = 8.0
MIN_ENCODE_FLAT = 3.0
MIN_ENCODE_LARGE = 5.0
MIN_DECODE = 1.8
MIN_BODY = 4.0
MIN_URLS = 4.5
MIN_ADDED = 2.0
MAX_FLAT_BYTES = 1.5
MAX_LARGE_MIB = 100
MAX_DECODE_MIB = 115
MAX_DOWNLOADS = 1.2
MAX_TOGETHER = 1.3
MAX_IMPORT_MS = 30
CORES = "The work is shared among the cores: with fewer of them, or fewer of them free, it takes longer."


@dataclass(frozen=True)
class Row:
    """One step, as the report tells it.

    `ratio` is how many times as fast we are and `least` what it should be, where the goal is about that; `label` names
    such a step in the chart. `limit` says what stands in the way of a goal that is missed.
    """

    step: str
    theirs: str
    ours: str
    goal: str
    measured: str
    met: bool
    sdk: str = "-"
    label: str = ""
    ratio: float | None = None
    least: float | None = None
    limit: str = CORES


@dataclass(frozen=True)
class Timing:
    """Seconds of the rounds of one step, by side."""

    seconds: Mapping[str, Sequence[float]]
    sizes: Mapping[str, int]

    def ms(self, side: str) -> str:
        """The median of a side in milliseconds."""
        return f"{1000 * statistics.median(self.seconds[side]):.0f} ms" if side in self.seconds else "-"

    @property
    def ratio(self) -> float:
        """The median of theirs to ours, round by round."""
        return statistics.median(a / b for a, b in zip(self.seconds["theirs"], self.seconds["ours"], strict=True))

    def share(self, *parts: str) -> float:
        """The median of the sum of these to theirs, round by round."""
        rounds = zip(self.seconds["theirs"], *(self.seconds[part] for part in parts), strict=True)
        return float(statistics.median(sum(values) / theirs for theirs, *values in rounds))


@dataclass(frozen=True)
class Bench:
    """How to measure: `effort` times the usual number of rounds, with the SDK if it is in a folder."""

    effort: float
    sdk: Path | None

    def rounds(self, usual: int) -> int:
        """How many rounds to make of something that is usually done so often."""
        return max(3, round(usual * self.effort))

    def time(self, step: str, rounds: int, server: str = "") -> Timing:
        """Measure a step in a process of its own, both sides in alternation."""
        found = self._child(step, "--rounds", str(self.rounds(rounds)), server=server)
        return Timing(found["seconds"], found["bytes"])

    def peak_mib(self, step: str, side: str) -> float:
        """What one side of a step takes in memory, in a process of its own."""
        return float(self._child(step, "--peak", side)["peak_mib"])

    def _child(self, step: str, *options: str, server: str = "") -> dict[str, Any]:
        command = [sys.executable, "-m", "development.bench.steps", step, *options]
        command += ["--server", server] if server else []
        command += ["--sdk", str(self.sdk)] if self.sdk else []
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def encode_photo(bench: Bench) -> Row:
    """A photo and its mask to a PNG file."""
    step, label = "encode image + mask to RGBA PNG, photo 1024²", "encode a photo, 1024²"
    return _encode(bench, "encode-photo", step, label, rounds=9, least=MIN_ENCODE_PHOTO, most_share=1)


def encode_flat(bench: Bench) -> Row:
    """Flat art and its mask to a PNG file."""
    step, label = "the same, flat art 1024²", "encode flat art, 1024²"
    return _encode(bench, "encode-flat", step, label, rounds=25, least=MIN_ENCODE_FLAT, most_share=MAX_FLAT_BYTES)


def _encode(bench: Bench, name: str, step: str, label: str, *, rounds: int, least: float, most_share: float) -> Row:
    """The row of a step that makes a file, which may have `most_share` times the bytes of theirs."""
    timing = bench.time(name, rounds)
    share = timing.sizes["ours"] / timing.sizes["theirs"]
    return Row(
        step,
        f"{timing.ms('theirs')}, {megabytes(timing.sizes['theirs'])}",
        f"{timing.ms('ours')}, {megabytes(timing.sizes['ours'])}",
        f"≥ x{least:g}, " + ("not larger" if most_share == 1 else f"≤ {most_share:g} x the bytes"),
        f"x{timing.ratio:.1f}, {percent(share)} of the bytes",
        timing.ratio >= least and share <= most_share,
        label=label,
        ratio=timing.ratio,
        least=least,
    )


def encode_large(bench: Bench) -> Row:
    """A large photo, scaled down first."""
    step, label = "encode a 4096² photo (scaled down first)", "encode a photo, 4096²"
    return _with_memory(bench, "encode-large", step, label, rounds=5, least=MIN_ENCODE_LARGE, most_mib=MAX_LARGE_MIB)


def decode(bench: Bench) -> Row:
    """Files to one tensor."""
    step, label = "decode 8 PNGs of 1024² to one tensor", "decode 8 PNGs, 1024²"
    return _with_memory(bench, "decode", step, label, rounds=9, least=MIN_DECODE, most_mib=MAX_DECODE_MIB)


def body(bench: Bench) -> Row:
    """The body of an answer to bytes."""
    step, label = "a 21 MB answer of base64: body to bytes", "read 21 MB of base64"
    return _with_memory(bench, "body", step, label, rounds=11, least=MIN_BODY)


def _with_memory(
    bench: Bench, name: str, step: str, label: str, *, rounds: int, least: float, most_mib: int | None = None
) -> Row:
    """The row of a step that is told with the memory that it takes, of which there may be a limit."""
    timing = bench.time(name, rounds)
    mib = {side: bench.peak_mib(name, side) for side in ("theirs", "ours", "sdk") if side in timing.seconds}
    columns = {side: f"{timing.ms(side)}, {mib[side]:.0f} MiB" for side in mib}
    if "theirs, unlogged" in timing.seconds:
        columns["theirs"] += f"; without the log that it writes: {timing.ms('theirs, unlogged')}"
    goal, met = f"≥ x{least:g}", timing.ratio >= least
    if most_mib is not None:
        goal, met = f"{goal}, ≤ {most_mib} MiB", met and mib["ours"] <= most_mib
    measured = f"x{timing.ratio:.1f}, {mib['ours']:.0f} MiB"
    return Row(step, goal=goal, measured=measured, met=met, label=label, ratio=timing.ratio, least=least, **columns)


def urls(bench: Bench) -> Row:
    """URLs to one tensor, each of them slow."""
    with Emulator("litellm", api_key=None) as emulator:
        emulator.picture_delay_s = PICTURE_DELAY_S
        timing = bench.time("urls", 5, emulator.base_url)
        alone = bench.time("downloads", 5, emulator.base_url)
    downloads = statistics.median(alone.seconds["ours"]) / PICTURE_DELAY_S
    return Row(
        "8 result URLs of 300 ms each, to a tensor",
        timing.ms("theirs"),
        timing.ms("ours"),
        f"≥ x{MIN_URLS:g}; downloads alone ≤ {MAX_DOWNLOADS:g} x the slowest",
        f"x{timing.ratio:.1f}; downloads alone {downloads:.2f} x",
        timing.ratio >= MIN_URLS and downloads <= MAX_DOWNLOADS,
        label="8 slow URLs to a tensor",
        ratio=timing.ratio,
        least=MIN_URLS,
    )


def nodes_together(bench: Bench, theirs: Side, ours: Side) -> Row:
    """Several nodes in one graph."""
    seconds: dict[str, list[float]] = {}
    ours.emulator.delay_s = API_DELAY_S
    for _ in range(bench.rounds(4)):
        for side in (theirs, ours):
            for count in (1, TOGETHER):
                seconds.setdefault(f"{side.name} {count}", []).append(side.run(graph(count)))
    ours.emulator.delay_s = 0
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    share = statistics.median(b / a for a, b in zip(seconds["ours 1"], seconds[f"ours {TOGETHER}"], strict=True))
    return Row(
        f"{TOGETHER} of these nodes in one graph, API answers in {API_DELAY_S:g} s",
        f"{medians[f'theirs {TOGETHER}']:.2f} s (one node: {medians['theirs 1']:.2f} s)",
        f"{medians[f'ours {TOGETHER}']:.2f} s (one node: {medians['ours 1']:.2f} s)",
        f"≤ {MAX_TOGETHER:g} x one node",
        f"{share:.2f} x one node",
        share <= MAX_TOGETHER,
    )


def time_added(bench: Bench, theirs: Side, ours: Side) -> Row:
    """What a node costs beyond what the API takes."""
    seconds: dict[str, list[float]] = {"theirs": [], "ours": [], "idle": [], "decoding": []}
    picture = one_picture(ours.emulator.base_url)
    for _ in range(bench.rounds(25)):
        for side in (theirs, ours):
            seconds[side.name].append(side.added())
        seconds["idle"].append(ours.run(idle_graph()))
        seconds["decoding"].append(decoding_s(picture))
    timing = Timing(seconds, {})
    return Row(
        "time the node adds to the API's own (n=1, 1024², loopback)",
        timing.ms("theirs"),
        timing.ms("ours"),
        "≤ half of ComfyUI's own",
        f"{percent(1 / timing.ratio)} of ComfyUI's own",
        timing.ratio >= MIN_ADDED,
        label="the time that the node adds",
        ratio=timing.ratio,
        least=MIN_ADDED,
        limit="Whatever a node does, ComfyUI takes "
        f"{timing.ms('idle')} for a graph whose node does nothing, and Pillow {timing.ms('decoding')} to decode the "
        f"picture that comes: together {percent(timing.share('idle', 'decoding'))} of ComfyUI's own.",
    )


def one_picture(base_url: str) -> bytes:
    """The file that the API sends for a graph of one node."""
    order = {"model": "dall-e-2", "prompt": "a quiet harbour", "response_format": "b64_json"}
    answer = requests.post(f"{base_url}/images/generations", json=order, timeout=60)
    answer.raise_for_status()
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def decoding_s(picture: bytes) -> float:
    """Seconds that Pillow takes for a file."""
    start_s = time.perf_counter()
    Image.open(io.BytesIO(picture)).load()
    return time.perf_counter() - start_s


def import_time(bench: Bench, folder: Path) -> Row:
    """What the package adds to ComfyUI's start."""
    found = imports(folder, bench.sdk, bench.rounds(3))
    ours_ms = 1000 * statistics.median(each["ours"] for each in found)
    sdk = f"{1000 * statistics.median(each['sdk'] for each in found):.0f} ms" if bench.sdk else "-"
    news = [name for name in found[0]["modules"] if name != "measured"]
    return Row(
        "import of the package in a running ComfyUI",
        "-",
        f"{ours_ms:.0f} ms",
        f"≤ {MAX_IMPORT_MS} ms on top of what ComfyUI has imported",
        f"{ours_ms:.0f} ms; new beside the package: {', '.join(news) or 'nothing'}",
        ours_ms <= MAX_IMPORT_MS,
        sdk=sdk,
    )


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
