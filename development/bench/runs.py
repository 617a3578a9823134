"""Whole runs: the node in a ComfyUI, and ComfyUI's own node in another, against the same emulator."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from development.comfyui import ComfyUI, problem
from development.console import Failed
from development.emulator import FLAVOURS, Emulator
from development.emulator.flavours import Flavour
from development.package import copy_package
from development.workflows import Workflow

# Comfy.org's proxy as it was when it still took what ComfyUI's own node sends: any model, and a seed.
PROXY_OF_OLD = "proxy-of-old"
RUN_TIMEOUT_S = 900.0
SAMPLE_S = 0.01
MIB = 2**20
_seeds = itertools.count(1)

PROBE = """
import importlib.util, json, pathlib, sys, time

here = pathlib.Path(__file__).parent
found = {}

def timed(name, load):
    start_s = time.perf_counter()
    load()
    found[name] = time.perf_counter() - start_s

def package():
    folder = here / "package"
    spec = importlib.util.spec_from_file_location("measured", folder / "__init__.py",
                                                  submodule_search_locations=[str(folder)])
    sys.modules["measured"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

def sdk():
    sys.path.append(SDK)
    import openai

before = set(sys.modules)
timed("ours", package)
found["modules"] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
if SDK:
    timed("sdk", sdk)
(here / "found.json").write_text(json.dumps(found))
NODE_CLASS_MAPPINGS = {}
"""


@dataclass(frozen=True)
class Side:
    """One of the two ComfyUIs."""

    name: str
    comfyui: ComfyUI
    emulator: Emulator

    @property
    def memory_mib(self) -> float:
        """What its process holds in memory."""
        return psutil.Process(self.comfyui.process.pid).memory_info().rss / MIB

    def run(self, graph: Workflow) -> float:
        """Seconds from the start of a graph to its end, as ComfyUI notes them."""
        return self.wait(self.comfyui.queue(graph))

    def wait(self, prompt_id: str) -> float:
        """The same for a graph that is queued already. Raises Failed when it fails."""
        entry = self.comfyui.wait(prompt_id, RUN_TIMEOUT_S)
        if reason := problem(entry):
            raise Failed(f"A run of the benchmark failed ({self.name}): {reason}")
        start_ms, end_ms = span_ms([entry])
        return (end_ms - start_ms) / 1000

    def run_queue(self, count: int) -> float:
        """Seconds from the start of the first to the end of the last of so many small graphs, queued at once."""
        waiting = [self.comfyui.queue(graph(1, size=256)) for _ in range(count)]
        for prompt_id in waiting:
            self.wait(prompt_id)
        entries = [self.comfyui.history(prompt_id) or {} for prompt_id in waiting]
        start_ms, end_ms = span_ms(entries)
        return (end_ms - start_ms) / 1000

    def added(self, n: int = 1) -> float:
        """Seconds that a graph of one node takes beyond those that the API does."""
        self.emulator.clear()
        total_s = self.run(graph(1, n=n))
        (record,) = self.emulator.posts
        return total_s - ((record.answered or 0) - record.started)


def span_ms(entries: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """When, in milliseconds, the first of these entries of the history started, and when the last ended."""
    stamps = [details["timestamp"] for entry in entries for _, details in entry["status"]["messages"]]
    return min(stamps), max(stamps)


def graph(nodes: int, *, n: int = 1, size: int = 1024) -> Workflow:
    """So many of the nodes, each with something behind it that takes the pictures and no time."""
    drawing = {
        f"draw{index}": {
            "class_type": "OpenAIDalle2",
            "inputs": {"prompt": "a quiet harbour", "seed": next(_seeds), "size": f"{size}x{size}", "n": n},
        }
        for index in range(nodes)
    }
    taking = {
        f"take{index}": {"class_type": "PreviewAny", "inputs": {"source": [f"draw{index}", 0]}}
        for index in range(nodes)
    }
    return {**drawing, **taking}


def idle_graph() -> Workflow:
    """The graph of one node, with a node of ComfyUI in its place that has nothing to do."""
    blank = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": next(_seeds)}}
    return {"draw0": blank, "take0": {"class_type": "PreviewAny", "inputs": {"source": ["draw0", 0]}}}


@contextmanager
def both_sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    """ComfyUI with its own node, and ComfyUI with ours, at the same emulator; each has run once."""
    flavour = Flavour(base_path="/proxy/openai", auth="none")
    cast("dict[str, Flavour]", FLAVOURS)[PROXY_OF_OLD] = flavour
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(PROXY_OF_OLD, api_key=None, keep_files=False))
        at_emulator = ["--comfy-api-base", emulator.origin]
        env = {"OPENAI_BASE_URL": emulator.base_url}
        theirs = ComfyUI(folder / "theirs", args=at_emulator, api_nodes=True, package=None)
        ours = ComfyUI(folder / "ours", env=env)
        sides = tuple(
            Side(name, stack.enter_context(comfyui), emulator) for name, comfyui in (("theirs", theirs), ("ours", ours))
        )
        for side in sides:
            side.run(graph(2, n=2))
        yield sides[0], sides[1]


def imports(folder: Path, sdk: Path | None, rounds: int) -> list[dict[str, Any]]:
    """What a starting ComfyUI needs to import the package and then the SDK: seconds, and the modules that were new."""
    probe = folder / "custom_nodes" / "probe"
    copy_package(probe / "package")
    (probe / "__init__.py").write_text(PROBE.replace("SDK", repr(str(sdk) if sdk else "")), encoding="utf-8")
    found = []
    for _ in range(rounds + 1):
        # Python keeps what it compiled, unless the environment of whoever measures forbids it.
        with ComfyUI(folder, package=None, env={"PYTHONDONTWRITEBYTECODE": ""}):
            found.append(json.loads((probe / "found.json").read_text(encoding="utf-8")))
    return found[1:]  # the first also compiled everything


class Peak:
    """The most memory that a process holds during a `with` block, looked at a hundred times a second."""

    def __init__(self, side: Side) -> None:
        self.mib = 0.0
        self._side = side
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.mib = max(self.mib, self._side.memory_mib)
