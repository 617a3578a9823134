"""What ComfyUI tells its editor over the websocket, collected in a thread meanwhile."""

from __future__ import annotations

import json
import struct
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# The numbers of ComfyUI's BinaryEventTypes.
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4
FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@dataclass(frozen=True)
class Event:
    """One message. `time_s` is of the monotonic clock; `raw` is what came over the wire.

    `kind` is ComfyUI's name for a JSON message, or `text` (on a node) or `preview` (a picture).
    """

    time_s: float
    kind: str
    raw: bytes
    data: dict[str, Any] = field(default_factory=dict)
    node_id: str | None = None
    text: str = ""


class Listener:
    """Listens on ComfyUI's websocket within a `with` block, as the client `client_id`.

    `on_event` is called for each event, in the listener's thread.
    """

    def __init__(self, url: str, on_event: Callable[[Event], None] | None = None) -> None:
        self.client_id = uuid.uuid4().hex
        self.events: list[Event] = []
        self._on_event = on_event
        self._arrived = threading.Condition()
        address = f"{url}/ws?clientId={self.client_id}".replace("http", "ws", 1)
        self._socket = connect(address, max_size=None, proxy=None)
        self._thread = threading.Thread(target=self._collect, name="comfyui-events", daemon=True)

    def __enter__(self) -> Listener:
        # As the editor does, which makes ComfyUI name the node of each preview.
        self._socket.send(json.dumps(FEATURES))
        self._socket.recv()  # ComfyUI greets every client: from then on nothing is missed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._thread.join()

    def texts(self, node_id: str | None = None) -> list[str]:
        """The texts that were shown on a node, or on any, in order."""
        return [event.text for event in self.of_kind("text") if node_id in (None, event.node_id)]

    def of_kind(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in list(self.events) if event.kind == kind]

    def wait_for(self, wanted: Callable[[Event], bool], timeout_s: float = 30) -> Event | None:
        """The first wanted event, of those that came and those that come; None after `timeout_s`."""

        def found() -> Event | None:
            return next((event for event in self.events if wanted(event)), None)

        with self._arrived:
            return self._arrived.wait_for(found, timeout_s)

    def _collect(self) -> None:
        with suppress(ConnectionClosed):
            for message in self._socket:
                event = parse_event(message)
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
        data = content["data"]
        return Event(now_s, content["type"], message.encode(), data, data.get("node"))
    # The second number is the length of what stands before the text or the picture.
    kind, length = struct.unpack_from(">II", message)
    if kind == TEXT:
        node_id, text = message[8 : 8 + length].decode(), message[8 + length :].decode()
        return Event(now_s, "text", message, node_id=node_id, text=text)
    return Event(now_s, "preview" if kind == PREVIEW_IMAGE_WITH_METADATA else f"binary {kind}", message)
