"""One synchronous client for the OpenAI Images API: POST, wait, download.

Its promises: a key goes to its own host only; an answer is read within limits of bytes and time; a billed request is
sent again only when it cannot have arrived; whatever fails ends in one of the errors of `errors.py`:

    ImagesApiError
    |-- ConnectionFailed      not reached, or the answer was lost
    |     '-- TimedOut        the same, by waiting too long
    |-- StatusError           an error status: status_code, condition, detail, request_id
    |-- UnusableAnswer        answered, but with no picture that can be used
    '-- CallCancelled         not sent (again), because nobody waits for it any more
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
from requests.auth import AuthBase

from .addresses import as_sent, is_relative, joined, origin, refuse_private, strange_address
from .errors import CHARGED, CONDITIONS, DOWNLOADS, Condition, StatusError, UnusableAnswer, request_id_line
from .models import ErrorDetail, ImageRequest, ImagesResponse, ModelEntry, ModelList, Picture
from .retry import Retrier
from .transport import Link, read, read_some

MAX_ANSWER_BYTES = 128 * 2**20  # ten pictures of 9 MiB in base64: an incompressible 1536 x 1536 each
MAX_ERROR_BYTES = 64 * 2**10  # an error is read only as far as its first sentences
MAX_DOWNLOAD_BYTES = 32 * 2**20  # one picture: an incompressible RGBA of 2896 x 2896
MAX_LISTING_BYTES = 2 * 2**20  # the longest list of models, of a gateway to everything, has a quarter of that
DOWNLOAD_READ_TIMEOUT_S = 60.0  # a file that lies ready keeps nobody waiting as a picture does that is being drawn
LISTING_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5  # of a download; a POST follows none
MIN_SECRET_CHARACTERS = 4  # a shorter key would be found in every other word

# What looks like a key although it is not ours whole: OpenAI repeats the ends of one, with asterisks between.
SOMEBODYS_KEY = r"\b(?:sk|comfyui)-[\w*.-]{4,}|[\w-]{0,64}\*{3,}[\w*-]{0,64}"


@dataclass(frozen=True)
class Answer:
    """What the API sent for one `request`: pictures (bytes or URLs), and the `credits` used if it says so."""

    request: ImageRequest
    pictures: tuple[Picture, ...]
    credits: float | None = None


class _Headers(AuthBase):
    """Authorizes with fixed headers; being an `auth`, it also keeps `requests` from sending a `.netrc` login."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


class ImagesClient:
    """A client for one server; use it as a context manager.

    `base_url` is what `/images/generations` is appended to; `headers` authorize, `params` go into the query of each
    call, and `signed_in` says that the headers are a Comfy.org account's. `read_timeout_s` bounds each wait for a byte;
    an answer must be complete within `connect_timeout_s` + 1.5 x `read_timeout_s` seconds.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        signed_in: bool = False,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 600.0,
        retrier: Retrier | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._origin = origin(as_sent(base_url))
        self._key = _Headers(headers or {})
        self._hide = _hider(headers or {})
        self._params = dict(params or {})
        self._signed_in = signed_in
        self._retrier = retrier or Retrier()
        self._timeout_s = (connect_timeout_s, read_timeout_s)
        self._download_timeout_s = (connect_timeout_s, min(read_timeout_s, DOWNLOAD_READ_TIMEOUT_S))
        total_s = connect_timeout_s + 1.5 * read_timeout_s
        self._api = Link(timeout_s=self._timeout_s, total_s=total_s)
        self._web = Link(timeout_s=self._download_timeout_s, total_s=total_s, public_only=True)

    def __enter__(self) -> ImagesClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._web.close()

    def generate(self, request: ImageRequest) -> Answer:
        """Pictures from a prompt. Raises ImagesApiError."""
        return self._post(request, "/images/generations", json=request.fields())

    def edit(self, request: ImageRequest, *, image: bytes, mask: bytes, mask_field: str = "mask") -> Answer:
        """Pictures from a prompt, an image and a mask: PNG files of the same size. Raises ImagesApiError."""
        files = {"image": ("image.png", image, "image/png"), mask_field: ("mask.png", mask, "image/png")}
        return self._post(request, "/images/edits", data=request.fields(), files=files)

    def models(self) -> tuple[ModelEntry, ...]:
        """The models that the server lists. One try, with short timeouts. Raises ImagesApiError."""
        connect_s, read_s = (min(limit, LISTING_TIMEOUT_S) for limit in self._timeout_s)
        timeouts: dict[str, Any] = {"timeout": (connect_s, read_s), "total_s": connect_s + read_s}
        body, _ = self._exchange("GET", "/models", limit_bytes=MAX_LISTING_BYTES, **timeouts)
        try:
            return ModelList.model_validate_json(body).data
        except ValueError:
            raise UnusableAnswer("The server's list of models cannot be read.") from None

    def download(self, url: str) -> bytes:
        """The picture behind a URL of an answer. Raises ImagesApiError.

        A relative URL belongs to the API and is fetched with its headers, any other without. It must be of the API's
        own origin, or https on a public host; so must each redirect on the way. Anything transient is retried.
        """
        return self._retrier.run(lambda: self._follow(url), repeatable=True)

    def _post(self, request: ImageRequest, route: str, **body: Any) -> Answer:
        def send() -> tuple[bytes, Mapping[str, str]]:
            return self._exchange("POST", route, limit_bytes=MAX_ANSWER_BYTES, billed=True, **body)

        content, headers = self._retrier.run(send, repeatable=False)
        pictures = pictures_in(content)
        if pictures is None:
            raise UnusableAnswer(self._unreadable(content) + request_id_line(headers))
        if not any(picture.b64_json or picture.url for picture in pictures):
            what = "The server answered without a picture that could be read. Run again."
            raise UnusableAnswer(f"{what} {CHARGED}{request_id_line(headers)}")
        return Answer(request, pictures, _credits(headers))

    def _exchange(
        self, method: str, route: str, *, limit_bytes: int, **options: Any
    ) -> tuple[bytes, Mapping[str, str]]:
        url = self._base_url + route
        with self._api.open(method, url, auth=self._key, params=self._params, **options) as response:
            if not 200 <= response.status_code < 300:
                raise self._refusal(response, CONDITIONS)
            headers = self._readable(response.headers)
            try:
                return read(response, limit_bytes), headers
            except UnusableAnswer as err:
                charged = f" {CHARGED}" if method == "POST" else ""
                raise UnusableAnswer(f"{err}{charged}{request_id_line(headers)}") from err

    def _follow(self, url: str) -> bytes:
        """The picture behind a URL, wherever that leads."""
        with_key = is_relative(url)
        address = self._base_url + "/"
        for _ in range(1 + MAX_REDIRECTS):
            address = joined(address, url)
            is_ours = origin(address) == self._origin
            if not is_ours:
                refuse_private(address)
            content, url = self._fetch(address, is_ours=is_ours, with_key=with_key and is_ours)
            with_key = False  # where a redirect leads is the server's wish, not the API's
            if content is not None:
                return content
        raise UnusableAnswer(f"The address of a picture redirects more than {MAX_REDIRECTS} times.")

    def _fetch(self, address: str, *, is_ours: bool, with_key: bool) -> tuple[bytes | None, str]:
        """One hop of a download: the picture, or None and where it went."""
        link = self._api if is_ours else self._web
        key = self._key if with_key else _Headers({})
        with link.open("GET", address, auth=key, timeout=self._download_timeout_s) as response:
            if response.is_redirect:
                return None, response.headers["location"]
            if response.status_code == 404 and with_key:
                raise UnusableAnswer(strange_address(address))
            if response.status_code != 200:
                raise self._refusal(response, DOWNLOADS)
            return read(response, MAX_DOWNLOAD_BYTES), address

    def _refusal(self, response: requests.Response, rows: tuple[Condition, ...]) -> StatusError:
        detail = ErrorDetail.parse(read_some(response, MAX_ERROR_BYTES), self._hide)
        headers = self._readable(response.headers)
        return StatusError(response.status_code, detail, headers=headers, signed_in=self._signed_in, rows=rows)

    def _readable(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {name.lower(): self._hide(value) for name, value in headers.items()}

    def _unreadable(self, content: bytes) -> str:
        start = content[:MAX_ERROR_BYTES].lstrip()
        words = ErrorDetail.parse(content, self._hide).message if len(content) <= MAX_ERROR_BYTES else ""
        if not start:
            what = "nothing at all. Check OPENAI_BASE_URL (it usually ends in /v1)."
        elif start.startswith(b"<"):
            what = "a web page instead of pictures. Check OPENAI_BASE_URL (it usually ends in /v1) and the network."
        elif words:
            what = "words instead of pictures."
        else:
            what = "something that is no list of pictures, or only a part of one. Run again later."
        said = f"\nThe server said: {words}" if words else ""
        return f"The server answered with {what} {CHARGED}{said}"


def pictures_in(content: bytes) -> tuple[Picture, ...] | None:
    """The pictures of an answer, None if it cannot be read. The error would hold the whole answer."""
    try:
        return ImagesResponse.parse(content).data
    except (ValueError, RecursionError):
        return None


def _hider(headers: Mapping[str, str]) -> Callable[[str], str]:
    """What takes the secrets of these headers out of a text, and other keys too: some servers repeat them."""
    secrets = (value.rpartition(" ")[2] for value in headers.values())  # what follows "Bearer"
    parts = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS}
    known = sorted(map(re.escape, parts | {quote(part, safe="") for part in parts}), key=len, reverse=True)
    pattern = re.compile("|".join([*known, SOMEBODYS_KEY]), re.IGNORECASE)
    return lambda text: pattern.sub("***", text)


def _credits(headers: Mapping[str, str]) -> float | None:
    try:
        value = float(headers.get("x-comfy-credits-used", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
