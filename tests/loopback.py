"""A bench for the client: raw servers on loopback that answer as they like, and the node in plain Python.

What the emulator cannot do (half a TLS handshake, headers in drops, a length that lies) a `Loopback` does: each of its
connections is handed to a function that reads and writes bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dalle2.api_client import Answer
from dalle2.backends import Account, Backend
from dalle2.errors import ImagesApiError
from dalle2.generation.answer_cache import AnswerCache
from dalle2.generation.call_context import CallContext
from dalle2.models import ImageRequest
from dalle2.nodes import OpenAIDalle2
from development.emulator import Emulator, RequestRecord

KEY = "sk-emulated"
LONG_S = 20.0  # longer than any test: a test that needs it has failed
ANSWER = Answer(ImageRequest(prompt="a", model="m", n=1, size="256x256"), ())


class Connection:
    """One connection of a client to a `Loopback`."""

    def __init__(self, sock: socket.socket, requests: list[bytes]) -> None:
        self.socket = sock
        self._requests = requests
        self._file = sock.makefile("rb")

    def request(self) -> bytes:
        """Read one request, head and body, and note it. Raises EOFError when the client has left."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                raise EOFError
            head += line
        lengths = [line.partition(b":")[2] for line in head.splitlines() if line.lower().startswith(b"content-length")]
        request = head + self._file.read(int(lengths[0]) if lengths else 0)
        self._requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        for end in (self._file, self.socket):
            with contextlib.suppress(OSError):
                end.close()


Script = Callable[[Connection], None]


class Loopback:
    """A server on 127.0.0.1 that runs `script` for each connection, within a `with` block. `requests` came in whole."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Loopback:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(LONG_S)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            connection = Connection(sock, self.requests)
            try:
                self.script(connection)
            finally:
                connection.close()


def http(body: bytes | str | object = b"", status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """An HTTP answer; a body that is neither bytes nor text goes out as JSON."""
    content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Length": str(len(content)), "Connection": "close", **(headers or {})}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def answering(*answers: bytes) -> Script:
    """A script that answers each request, over all connections, with the next of `answers`; the last one for good."""
    left = list(answers)
    lock = threading.Lock()

    def script(connection: Connection) -> None:
        connection.request()
        with lock:
            answer = left.pop(0) if len(left) > 1 else left[0]
        connection.send(answer)

    return script


def hanging(connection: Connection) -> None:
    """A script that reads and never answers."""
    while True:
        connection.request()


def backend_at(base_url: str, **changes: Any) -> Backend:
    """The backend of a server of the user's own."""
    usual = Backend(
        name="openai",
        base_url=base_url,
        headers={"Authorization": f"Bearer {KEY}"},
        account="me",
        params={},
        fixed_model=None,
        quality="low",
        timeouts_s=(LONG_S, LONG_S),
        hosted=False,
    )
    return replace(usual, **changes)


def pay(call: CallContext, cache: AnswerCache, key: str = "a") -> None:
    """Let a call have an answer that was paid for."""
    entry = cache.reserve(key, call.cancelled)
    entry.answer = ANSWER
    call.use(entry)


def is_kept(cache: AnswerCache, key: str = "a") -> bool:
    """Whether the next call gets the answer; it is then there no more."""
    return cache.checkout(key, threading.Event()) is not None


def encoded(file: bytes) -> dict[str, str]:
    """A picture as an answer holds it."""
    return {"b64_json": base64.b64encode(file).decode()}


def image_and_mask(value: float = 0.5) -> dict[str, Any]:
    """The inputs of an edit: a picture of one grey and a mask of its upper half."""
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    return {"image": torch.full((1, 32, 32, 3), value), "mask": mask}


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no thread can be started, as in a process that has too many."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def full_port(stack: contextlib.ExitStack) -> int:
    """A port that neither accepts nor refuses: its queue of connections is full."""
    full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(8):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
    return int(full.getsockname()[1])


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds that another thread brings about."""
    asyncio.run(wait_beside_loop(condition))


async def wait_beside_loop(condition: Callable[[], bool]) -> None:
    """The same while the event loop goes on."""
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


def overlap(records: Sequence[RequestRecord]) -> bool:
    """Whether all of the requests were under way at one moment."""
    return max(record.started for record in records) < min(record.answered or 0 for record in records)


def traces(error: BaseException | None, caplog: pytest.LogCaptureFixture) -> str:
    """All that a call leaves behind in words: log lines, and the error with all that led to it."""
    texts = [record.getMessage() for record in caplog.records] + [caplog.text]
    seen: list[BaseException] = []
    chain = [error]
    while chain:
        link = chain.pop()
        if link is not None and link not in seen:
            seen.append(link)
            texts += [str(link), repr(link), *traceback.format_exception(link)]
            texts += [repr(vars(link))] if isinstance(link, ImagesApiError) else []
            chain += [link.__cause__, link.__context__]
    return "\n".join(texts)


class QuickCall(CallContext):
    """A call whose waits take no time; it keeps them and the texts. `at_pause` is called with each wait."""

    def __init__(self, cache: AnswerCache, at_pause: Callable[[float], None] | None = None) -> None:
        super().__init__(cache)
        self.waits: list[float] = []
        self.texts: list[str] = []
        self._at_pause = at_pause

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self._at_pause is not None:
            self._at_pause(seconds)

    def begin(self, activity: str) -> None:
        self.texts.append(activity)

    def say(self, text: str, for_s: float | None = None) -> None:
        self.texts.append(text)


@contextlib.contextmanager
def delivering(call: CallContext) -> Iterator[None]:
    """A call alone in its group, whose result counts as delivered when nothing fails."""
    call.group.join()
    delivered = False
    try:
        yield
        delivered = True
    finally:
        call.finish()
        call.group.leave(call, delivered=delivered)


class Node:
    """The node in plain Python, set up by environment variables as a user does it.

    `last` is the last call; `at_pause` may be set to a function that is called with each wait.
    """

    last: QuickCall

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = monkeypatch.setenv
        self.at_pause: Callable[[float], None] | None = None

    def use(self, server: Emulator | str, key: str | None = KEY) -> None:
        """Send the calls to a server."""
        self.set("OPENAI_BASE_URL", server if isinstance(server, str) else server.base_url)
        if key is not None:
            self.set("OPENAI_API_KEY", key)

    def draw(self, prompt: str = "a quiet harbour", **inputs: Any) -> Tensor:
        """The images `[N,H,W,C]` of one call."""
        node = OpenAIDalle2()
        self.last = QuickCall(node.cache, self.at_pause)
        with delivering(self.last):
            images, _ = node.generate(self.last, Account(), {"prompt": prompt, "size": "256x256", **inputs})
        return images

    @property
    def text(self) -> str:
        """The last line that the node shows."""
        return self.last.texts[-1]

    @property
    def waits(self) -> list[float]:
        """The seconds that the last call would have waited."""
        return self.last.waits
