"""What ComfyUI tells its editor over the websocket, collected in a thread meanwhile."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# The numbers of ComfyUI's BinaryEventTypes.
PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Event:
    """One message. `time_s` is of the monotonic clock; `raw` is what came over the wire.

    `kind` is ComfyUI's name for a JSON message, or `text` (on a node) or `preview` (a picture's bytes).
    `data` is the JSON message's data, or the preview's metadata.
    """

    time_s: float
    kind: str
    raw: bytes
    data: dict[str, Any] = field(default_factory=dict)
    node_id: str | None = None
    text: str = ""
    picture: bytes = b""


class Listener:
    """Listens on ComfyUI's websocket within a `with` block, as the client `client_id`.

    `on_event` is called for each event, in the listener's thread.
    """

    def __init__(self, url: str, on_event: Callable[[Event], None] | None = None) -> None:
        self.client_id = uuid.uuid4().hex
        self.events: list[Event] = []
        self._url = f"{url}/ws?clientId={self.client_id}"
        self._on_event = on_event
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="comfyui-events", daemon=True)
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def __enter__(self) -> Listener:
        self._thread.start()
        # ComfyUI greets every client with a status: from then on nothing is missed.
        if self.wait_for(lambda event: event.kind == "status", CONNECT_TIMEOUT_S) is None:
            self.close()
            raise ConnectionError(f"no greeting from ComfyUI at {self._url}") from self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. What was collected stays."""
        if self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def texts(self, node_id: str | None = None) -> list[str]:
        """The texts that were shown on a node, or on any, in order."""
        return [event.text for event in list(self.events) if event.kind == "text" and node_id in (None, event.node_id)]

    def of_kind(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in list(self.events) if event.kind == kind]

    def wait_for(self, wanted: Callable[[Event], bool], timeout_s: float = 30) -> Event | None:
        """The first wanted event, of those that came and those that come; None after `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        seen = 0
        with self._arrived:
            while True:
                found = next((event for event in self.events[seen:] if wanted(event)), None)
                seen = len(self.events)
                left_s = end_s - time.monotonic()
                if found is not None or left_s <= 0 or self._failure is not None:
                    return found
                self._arrived.wait(left_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._listen())
        try:
            self._loop.run_until_complete(self._task)
        except (aiohttp.ClientError, OSError) as err:
            self._failure = err
            with self._arrived:
                self._arrived.notify_all()
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(self._url, max_msg_size=0) as socket:
                # As the editor does, which makes ComfyUI name the node of each preview.
                await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                async for message in socket:
                    if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                        self._collect(parse_event(message.data))

    def _collect(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()
        if self._on_event is not None:
            self._on_event(event)


def parse_event(message: str | bytes) -> Event:
    """Turn one websocket message of ComfyUI into an event."""
    now_s = time.monotonic()
    if isinstance(message, str):
        content = json.loads(message)
        data = content.get("data") or {}
        node_id = data.get("node") if isinstance(data, dict) else None
        return Event(now_s, str(content.get("type")), message.encode(), data, node_id)
    (number,) = struct.unpack_from(">I", message)
    if number == TEXT:
        node, text = _split(message)
        return Event(now_s, "text", message, node_id=node.decode(), text=text.decode())
    if number == PREVIEW_IMAGE_WITH_METADATA:
        metadata, picture = _split(message)
        data = json.loads(metadata)
        return Event(now_s, "preview", message, data, data.get("node_id"), picture=picture)
    if number == PREVIEW_IMAGE:
        return Event(now_s, "preview", message, picture=message[8:])
    return Event(now_s, f"binary {number}", message)


def _split(message: bytes) -> tuple[bytes, bytes]:
    """Take apart a binary message whose second number is the length of its first part."""
    (length,) = struct.unpack_from(">I", message, 4)
    return message[8 : 8 + length], message[8 + length :]
