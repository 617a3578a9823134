"""The request log: what arrived, what was answered and what it cost. Safe to read from any thread."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "proxy-authorization", "cookie"})


@dataclass(frozen=True)
class FilePart:
    """One file of a multipart body, as it was sent."""

    field: str
    filename: str | None
    content_type: str
    data: bytes = dataclasses.field(repr=False)


@dataclass(frozen=True)
class RequestRecord:
    """One request. `fields` is the JSON body or the text parts of the multipart; times are monotonic.

    `status` and `answered` stay None until an answer was handed to the network completely.
    """

    number: int
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
    started: float = 0.0
    answered: float | None = None
    status: int | None = None
    billed: int = 0

    def file(self, name: str) -> FilePart:
        """Return the first file of that field name. Raises KeyError when there is none."""
        for part in self.files:
            if part.field == name:
                return part
        raise KeyError(name)

    def summary(self) -> dict[str, Any]:
        """Return the record as JSON data, without keys and with file sizes (bytes) instead of contents."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["headers"] = {k: "***" if k in SECRET_HEADERS else v for k, v in self.headers.items()}
        data["files"] = [
            {"field": p.field, "filename": p.filename, "content_type": p.content_type, "bytes": len(p.data)}
            for p in self.files
        ]
        return data


class RequestLog:
    """Requests in order of arrival, and the bill. With `keep_files` False, the bytes of files are dropped."""

    def __init__(self, *, keep_files: bool = True) -> None:
        self._keep_files = keep_files
        self._lock = threading.Lock()
        self._records: dict[int, RequestRecord] = {}
        self._count = 0
        self.paid_pictures = 0

    def arrive(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> int:
        """Note a request of which only the head is known, and return its number."""
        lower = {name.lower(): value for name, value in headers.items()}
        with self._lock:
            self._count += 1
            record = RequestRecord(self._count, method, path, dict(query), lower, started=time.monotonic())
            self._records[self._count] = record
            return self._count

    def note_body(self, number: int, fields: dict[str, Any], files: tuple[FilePart, ...]) -> None:
        """Add the body of a request."""
        if not self._keep_files:
            files = tuple(dataclasses.replace(part, data=b"") for part in files)
        self._update(number, fields=fields, files=files)

    def note_bill(self, number: int, pictures: int) -> None:
        """Add `pictures` to what has been billed, whether or not the answer will arrive."""
        with self._lock:
            self.paid_pictures += pictures
        self._update(number, billed=pictures)

    def note_answer(self, number: int, status: int | None) -> None:
        """Note that the answer is complete; None takes that back, when the client had left."""
        self._update(number, status=status, answered=None if status is None else time.monotonic())

    def _update(self, number: int, **changes: Any) -> None:
        with self._lock:
            # The log may have been cleared while the request was being served.
            if number in self._records:
                self._records[number] = dataclasses.replace(self._records[number], **changes)

    def snapshot(self) -> tuple[RequestRecord, ...]:
        """Return all requests so far, in order of arrival."""
        with self._lock:
            return tuple(self._records.values())

    def clear(self) -> None:
        """Forget every request and bill."""
        with self._lock:
            self._records.clear()
            self.paid_pictures = 0
