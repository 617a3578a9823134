"""The emulator as an object: a server in a thread of its own, its settings, its log and its faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from aiohttp import web

from .app import App
from .faults import Fault
from .flavours import FLAVOURS
from .studio import Knobs
from .wire import RequestRecord

HOST = "127.0.0.1"  # nobody else may come in
# How long requests may go on when the emulator stops; most of them hang on purpose.
GRACE_S = 0.1


class Emulator(Knobs):
    """A development server on loopback that speaks the OpenAI Images API as `server`, a name of `FLAVOURS`.

    Use it as a context manager. `models` names what it has, from the oldest to the newest; without `keep_files` the log
    drops the bytes of uploads. Raises ValueError for an unknown server, OSError when the port is taken.
    """

    def __init__(
        self,
        server: str = "openai",
        *,
        port: int = 0,
        api_key: str = "sk-emulated",
        delay_s: float = 0.0,
        models: Sequence[str] | None = None,
        keep_files: bool = True,
    ) -> None:
        if server not in FLAVOURS:
            raise ValueError(f"unknown server {server!r}; known are {', '.join(FLAVOURS)}")
        super().__init__(delay_s)
        self.server = server
        self.port = port
        self.api_key = api_key
        self._app = App(server, self, api_key, models, keep_files=keep_files)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, and return when the port is open. Raises OSError when it cannot be."""
        opened: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="emulator", daemon=True)
        self._thread.start()
        self.port = opened.result()

    def stop(self) -> None:
        """Stop at once; requests that hang are cut off. Does nothing when it is not running."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._thread = self._loop = None

    def _run(self, opened: Future[int]) -> None:
        try:
            asyncio.run(self._serve(opened))
        except OSError as err:
            opened.set_exception(err)
        finally:
            # Nobody should wait for a thread that died before it could open the port.
            opened.cancel()

    async def _serve(self, opened: Future[int]) -> None:
        runner = web.AppRunner(self._app.build(), access_log=None, handle_signals=False, shutdown_timeout=GRACE_S)
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        try:
            await runner.setup()
            await web.TCPSite(runner, HOST, self.port).start()
            opened.set_result(runner.addresses[0][1])
            await self._stopped.wait()
        finally:
            await runner.cleanup()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """What OPENAI_BASE_URL should be for this server; the origin alone is what --comfy-api-base should be."""
        return f"{self.origin}{FLAVOURS[self.server].base_path}"

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """Every request so far, in order of arrival."""
        return tuple(self._app.log)

    @property
    def posts(self) -> tuple[RequestRecord, ...]:
        """The requests that asked for pictures, whether or not they got any."""
        return tuple(r for r in self.requests if r.method == "POST" and "/images/" in r.path)

    @property
    def paid_pictures(self) -> int:
        """How many pictures have been billed since the start or the last `clear`."""
        return sum(record.billed for record in self.requests)

    def clear(self) -> None:
        """Empty the log and drop the faults that have not struck."""
        self._app.log.clear()
        self._app.faults.clear()

    def reset(self) -> None:
        """Empty the log, drop the faults, and put every knob back in its place."""
        self.clear()
        super().__init__()

    def fail(self, fault: Fault) -> None:
        """Let something go wrong with the next request of the fault's route, after the faults before it."""
        self._app.faults.add(fault)

    def fail_at_random(self, faults: Sequence[Fault], probability: float, seed: int) -> None:
        """Let each request fail with one of `faults` by chance; how often a fault may strike is ignored."""
        self._app.faults.at_random(faults, probability, seed)
