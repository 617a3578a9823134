"""What arrived, what was answered and what it cost, one record for each request."""

from __future__ import annotations

import dataclasses
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


@dataclass
class RequestRecord:
    """One request. `fields` is the JSON body or the text parts of the multipart; times are monotonic.

    `status` and `answered` stay None until an answer was handed to the network completely.
    """

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    started: float
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
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
        files = [{**vars(part), "data": f"{len(part.data)} bytes"} for part in self.files]
        headers = {name: "***" if name in SECRET_HEADERS else value for name, value in self.headers.items()}
        return {**vars(self), "headers": headers, "files": files}
