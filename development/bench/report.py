"""The report: RESULTS.md, which says what was measured, where, and which goals were missed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import features

from development.bench.growth import Curve, Point
from development.bench.table import Bench, Row
from development.comfyui_source import comfyui_copy

BUSY_LOAD = 0.5

HEAD = """# Results

Made by `python dev.py bench{options}`. The numbers are those of one machine and one run.

- *ComfyUI's own* is the code of its node `OpenAIDalle2`, called as it stands. Whole runs are made in two ComfyUIs, one
  with its own node and one with this package, against the same emulator.
- Both sides take turns, and a ratio is the median of the ratios of the rounds.
- Memory is what a step takes at the most beyond what was there before it, measured in a process of its own.
- The pictures are the same on every machine: `development/bench/pictures.py` makes them.

![How many times as fast](chart.svg)
"""


def load() -> float:
    """How many processes the machine was busy with in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def results(bench: Bench, rows: Sequence[Row], curves: Sequence[Curve], load_before: float) -> str:
    """The whole text."""
    missed = [row for row in rows if not row.met]
    verdict = (
        "Every goal is met." if not missed else f"{len(missed)} of {len(rows)} goals are missed; see below the table."
    )
    parts = [
        HEAD.format(options="" if bench.effort >= 1 else " --quick"),
        "## Where\n\n" + "\n".join(f"- {line}" for line in machine(bench, load_before)),
        f"## The table\n\n{verdict}\n\n{table(rows)}",
        *[f"- **Missed: {row.step}.** {row.measured}, where the goal is {row.goal}. {row.limit}" for row in missed],
    ]
    if curves:
        parts.append("## How the cost grows\n\nThe last line is the slope of the straight line that fits best.")
    parts += [growth(curve) for curve in curves]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| step | ComfyUI's own | this package | openai SDK | goal | measured | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        met = "yes" if row.met else "**no**"
        lines.append(f"| {' | '.join((row.step, row.theirs, row.ours, row.sdk, row.goal, row.measured, met))} |")
    return "\n".join(lines)


def growth(curve: Curve) -> str:
    """One curve in Markdown, with its slopes as the last line."""
    sides = "ComfyUI's own | this package"
    head = f"| {curve.counted} | time: {sides} | memory ({curve.memory}): {sides} |"
    lines = [
        _line(f"{count:,}", theirs, ours)
        for count, theirs, ours in zip(curve.counts, curve.theirs, curve.ours, strict=True)
    ]
    (their_ms, their_mib), (our_ms, our_mib) = curve.slopes(curve.theirs), curve.slopes(curve.ours)
    slope = f"| one more {curve.per} | {their_ms:.1f} ms | {our_ms:.1f} ms | {their_mib:.2f} MiB | {our_mib:.2f} MiB |"
    return f"### {curve.title}\n\n" + "\n".join([head, "|---|---|---|---|---|", *lines, slope])


def _line(count: str, theirs: Point, ours: Point) -> str:
    times = " | ".join(f"{1000 * point.seconds:,.0f} ms" for point in (theirs, ours))
    memory = " | ".join(f"{point.mib:,.0f} MiB" for point in (theirs, ours))
    return f"| {count} | {times} | {memory} |"


def machine(bench: Bench, load_before: float) -> list[str]:
    """What it was measured on and with."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pillow", "pydantic", "requests")}
    versions = {"Python": platform.python_version(), "ComfyUI": comfyui_version(), **versions}
    zlibs = f"zlib {zlib.ZLIB_RUNTIME_VERSION} (Pillow: {features.version('zlib')})"
    sdk = f", openai SDK {sdk_version(bench.sdk)}" if bench.sdk else ""
    busy = "; the machine was busy with other things, which disturbs the figures" if load_before > BUSY_LOAD else ""
    return [
        f"{processor()}, {os.cpu_count()} cores, {memory_gib()}, {platform.system()} {platform.release()}",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + f", {zlibs}{sdk}",
        f"Load when it began: {load_before:.1f}{busy}",
    ]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text(encoding="utf-8")) if file.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def memory_gib() -> str:
    """The machine's memory."""
    if not hasattr(os, "sysconf"):
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def comfyui_version() -> str:
    """The version of the ComfyUI that was measured."""
    file = comfyui_copy() / "comfyui_version.py"
    found = re.search(r'__version__ = "(.*)"', file.read_text(encoding="utf-8")) if file.exists() else None
    return found.group(1) if found else "of unknown version"


def sdk_version(folder: Path) -> str:
    """The version of the SDK in that folder."""
    return next(
        (found.version for found in importlib.metadata.distributions(name="openai", path=[str(folder)])), "unknown"
    )
