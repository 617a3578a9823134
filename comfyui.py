"""All that touches ComfyUI: interrupts, progress, text on a node, calls beside its event loop, its table of nodes.

The only module that knows ComfyUI's own. Outside of ComfyUI everything here works and shows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import ImagesApiError
from .generation.answer_cache import AnswerCache
from .generation.call_context import CallContext, CallGroup
from .threads import start_thread

log = logging.getLogger("openai-dalle")

T = TypeVar("T")


@dataclass(frozen=True)
class PageRequest:
    """A request of the editor's page: the address it came from, its headers (names in lower case), and its body."""

    remote: str
    headers: Mapping[str, str]
    body: bytes = b""


JsonAnswer = tuple[int, dict[str, Any]]
Handler = Callable[[PageRequest], JsonAnswer]
Routes = Mapping[tuple[str, str], Handler]

POLL_S = 0.05  # how often a waiting node looks whether it was cancelled, and shows what is new
COMFY_ORG_URL = "https://api.comfy.org"
BUILT_IN_PACKAGE = "comfy_api_nodes"
CANCELLED = "Cancelled. A paid answer is kept for an hour."


class NodeRunner:
    """Runs the calls of this package's nodes in ComfyUI, and knows which of them belong together."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._groups: dict[tuple[asyncio.AbstractEventLoop, str | None], CallGroup] = {}

    async def run_beside_loop(self, call: Callable[[CallContext], T], node_id: str | None) -> T:
        """`call(context)`, made in a daemon thread, while ComfyUI's event loop stays free.

        A cancelled prompt ends within a moment as *interrupted*, and leaves the thread to itself: for one of its own
        pool, asyncio would wait at the end of the prompt. Nothing is raised before the first await: ComfyUI would
        publish every input with it.
        """
        key = (asyncio.get_running_loop(), node_id)  # ComfyUI runs each prompt in a loop of its own
        group = self._groups.setdefault(key, CallGroup())
        group.join()
        context = CallContext(self._cache, group)
        delivered = False
        try:
            await asyncio.sleep(0)
            result = await _result(call, context, _Display(node_id))
            delivered = True
            return result
        except (ImagesApiError, ValueError) as err:
            # ComfyUI shows the class with its module, which for a custom node is a path on the user's disk.
            raise (ValueError if isinstance(err, ValueError) else RuntimeError)(str(err)) from err
        finally:
            if group.leave(context, delivered=delivered):
                del self._groups[key]


async def _result(call: Callable[[CallContext], T], context: CallContext, display: _Display) -> T:
    def work() -> T:
        try:
            return call(context)
        finally:
            context.finish()

    outcome = asyncio.wrap_future(start_thread(work, "openai-dalle"))
    try:
        while not outcome.done():
            await asyncio.wait({outcome}, timeout=POLL_S)
            if _is_interrupted():  # before a step is shown: ComfyUI's progress bar would clear the flag
                display.text(CANCELLED)
                raise _module("comfy.model_management").InterruptProcessingException
            display.show(context)
        return outcome.result()
    finally:
        outcome.cancel()  # an error that comes later is of no interest: asyncio would log it as a mistake


class _Display:
    """Shows on a node what is new about a call."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._shown = ""

    def show(self, context: CallContext) -> None:
        self.text(context.line)
        if self._node_id:
            for done, total, preview in context.new_steps():
                _send_step(done, total, preview, self._node_id)

    def text(self, line: str) -> None:
        server = _server()
        if self._node_id and line != self._shown and hasattr(server, "send_progress_text"):
            self._shown = line
            server.send_progress_text(line, self._node_id)


def comfy_api_base() -> str:
    """The base of Comfy.org's API: `--comfy-api-base`, by default Comfy.org itself."""
    args = getattr(_module("comfy.cli_args"), "args", None)
    return str(getattr(args, "comfy_api_base", None) or COMFY_ORG_URL)


def settings_folder() -> Path | None:
    """A folder of ComfyUI's user directory that its web server hands to nobody; None outside of ComfyUI."""
    folder_paths = _module("folder_paths")
    if not hasattr(folder_paths, "get_system_user_directory"):
        return None
    return Path(folder_paths.get_system_user_directory("openai_dalle"))


def add_routes(routes: Routes) -> None:
    """Let ComfyUI's web server answer these methods and paths, each in a thread beside its event loop."""
    server = _server()
    if server is None:
        return
    # A pool of their own: ComfyUI serves files by the default one, and a connection test can take long.
    pool = ThreadPoolExecutor(2, thread_name_prefix="openai-dalle-page")
    for (method, path), handler in routes.items():
        server.routes.route(method, path)(_beside_loop(handler, pool))


def _beside_loop(handler: Handler, pool: ThreadPoolExecutor) -> Callable[[Any], Any]:
    from aiohttp import web  # only ComfyUI needs it

    async def respond(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = PageRequest(request.remote or "", headers, await request.read())
        status, content = await asyncio.get_running_loop().run_in_executor(pool, handler, asked)
        return web.json_response(content, status=status, headers={"Cache-Control": "no-store"})

    return respond


def replace_built_in(node_id: str, node: type, display_name: str) -> None:
    """Take the place of ComfyUI's own node of this id, which no longer works.

    ComfyUI loads its own nodes first, and ignores a custom node with the id of one. A node of another custom-node
    package is left alone.
    """
    nodes = _module("nodes")
    classes = getattr(nodes, "NODE_CLASS_MAPPINGS", {})
    built_in = classes.get(node_id)
    # Not by `__module__`: ComfyUI loads its own nodes from their files, and names the modules by their paths.
    origin = getattr(built_in, "RELATIVE_PYTHON_MODULE", "")
    if not origin.startswith(BUILT_IN_PACKAGE):
        return
    classes[node_id] = node
    nodes.NODE_DISPLAY_NAME_MAPPINGS[node_id] = display_name
    # What ComfyUI sets for nodes that it takes from a package itself; the help pages are found by it.
    node.RELATIVE_PYTHON_MODULE = f"custom_nodes.{Path(__file__).parent.name}"  # type: ignore[attr-defined]
    log.info("The node %s of this package replaces ComfyUI's own, which no longer works.", node_id)


def _module(name: str) -> Any:
    """A module of the running ComfyUI, None outside of it."""
    return sys.modules.get(name) if "comfy.model_management" in sys.modules else None


def _is_interrupted() -> bool:
    management = _module("comfy.model_management")
    # Only looks: throw_exception_if_processing_interrupted would clear the flag, and other nodes would miss it.
    return management is not None and bool(management.processing_interrupted())


def _server() -> Any:
    """ComfyUI's server, None outside of it."""
    return getattr(getattr(_module("server"), "PromptServer", None), "instance", None)


def _send_step(done: int, total: int, preview: Any, node_id: str) -> None:
    bar = getattr(_module("comfy.utils"), "ProgressBar", None)
    if bar is not None:
        kind = "JPEG" if preview.mode == "RGB" else "PNG"  # as PNG, a photo takes several times the bytes
        bar(total, node_id=node_id).update_absolute(done, preview=(kind, preview, None))  # no size: it is small
