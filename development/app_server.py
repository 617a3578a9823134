"""An aiohttp application, served on loopback in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

from aiohttp import web
from typing_extensions import Self

HOST = "127.0.0.1"  # nobody else may come in
# How long requests may go on when it stops; most of those to the emulator hang on purpose.
GRACE_S = 0.1


class AppServer:
    """Serves what `application` makes, within a `with` block or from `start` to `stop`; `port` 0 takes a free one."""

    def __init__(self, application: Callable[[], web.Application], port: int = 0) -> None:
        self.port = port
        self._application = application
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, and return when the port is open. Raises OSError when it cannot be."""
        opened: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="app-server", daemon=True)
        self._thread.start()
        self.port = opened.result()

    def stop(self) -> None:
        """Stop at once; requests that hang are cut off. Does nothing when it is not running."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _run(self, opened: Future[int]) -> None:
        try:
            asyncio.run(self._serve(opened))
        except OSError as err:
            opened.set_exception(err)

    async def _serve(self, opened: Future[int]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=GRACE_S)
        try:
            await runner.setup()
            await web.TCPSite(runner, HOST, self.port).start()
            opened.set_result(runner.addresses[0][1])
            await self._stopped.wait()
        finally:
            await runner.cleanup()
