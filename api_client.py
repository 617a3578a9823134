"""One synchronous client for the OpenAI Images API: POST, wait, download.

Its promises: a key goes to its own host only; an answer is read within limits of bytes and time; a billed request is
sent again only when it cannot have arrived; whatever fails ends in an error of `errors.py`:

    ImagesApiError
    |-- ConnectionFailed      not reached, or the answer was lost
    |     '-- TimedOut
    |-- StatusError           status_code, condition, detail, request_id
    |-- UnusableAnswer        answered, but with no picture that can be used
    '-- CallCancelled
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase

from .errors import CHARGED, StatusError, UnusableAnswer
from .models import ErrorDetail, ImageRequest, ImagesResponse, ModelEntry, ModelList, Picture, shortened
from .retry import Retrier
from .transport import Link, read, read_some

MAX_ANSWER_BYTES = 128 * 2**20  # ten pictures of 9 MiB in base64: an incompressible 1536 x 1536 each
MAX_ERROR_BYTES = 64 * 2**10  # an error is read only as far as its first sentences
MAX_DOWNLOAD_BYTES = 32 * 2**20  # one picture: an incompressible RGBA of 2896 x 2896
LISTING_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5  # of a download; a POST follows none
MIN_SECRET_CHARACTERS = 8  # shorter parts of a header, such as "Bearer", are words


@dataclass(frozen=True)
class Answer:
    """What the API sent for one call: pictures (bytes or URLs), `request_id`, and the `credits` used if it says so."""

    pictures: tuple[Picture, ...]
    request_id: str = ""
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
        self._origin = _origin(base_url)
        self._key = _Headers(headers or {})
        self._secrets = _secrets(headers or {})
        self._params = dict(params or {})
        self._signed_in = signed_in
        self._retrier = retrier or Retrier()
        timeout_s = (connect_timeout_s, read_timeout_s)
        total_s = connect_timeout_s + 1.5 * read_timeout_s
        self._api = Link(timeout_s=timeout_s, total_s=total_s)
        self._web = Link(timeout_s=timeout_s, total_s=total_s, public_only=True)

    def __enter__(self) -> ImagesClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.__exit__()
        self._web.__exit__()

    def generate(self, request: ImageRequest) -> Answer:
        """Pictures from a prompt. Raises ImagesApiError."""
        return self._post("/images/generations", json=request.fields())

    def edit(self, request: ImageRequest, *, image: bytes, mask: bytes, mask_field: str = "mask") -> Answer:
        """Pictures from a prompt, an image and a mask: PNG files of the same size. Raises ImagesApiError."""
        files = {"image": ("image.png", image, "image/png"), mask_field: ("mask.png", mask, "image/png")}
        return self._post("/images/edits", data=request.fields(), files=files)

    def models(self) -> tuple[ModelEntry, ...]:
        """The models that the server lists, asked once and not for long. Raises ImagesApiError."""
        body, _ = self._exchange("GET", "/models", timeout=(LISTING_TIMEOUT_S, LISTING_TIMEOUT_S))
        try:
            return ModelList.model_validate_json(body).data
        except ValueError as err:
            raise UnusableAnswer("The server's list of models cannot be read.") from err

    def download(self, url: str) -> bytes:
        """The picture behind a URL of an answer. Raises ImagesApiError.

        A relative URL belongs to the API and is fetched with its headers, any other without. It must be of the API's
        own origin, or https on a public host; so must each redirect on the way. Anything transient is retried.
        """
        return self._retrier.run(lambda: self._follow(url), repeatable=True)

    def _post(self, route: str, **body: Any) -> Answer:
        content, headers = self._retrier.run(lambda: self._exchange("POST", route, **body), repeatable=False)
        try:
            pictures = ImagesResponse.parse(content).data
        except (ValueError, RecursionError) as err:
            raise UnusableAnswer(self._unreadable(content, headers)) from err
        if not any(picture.b64_json or picture.url for picture in pictures):
            raise UnusableAnswer(f"The server answered without a picture. {CHARGED}{_request_id(headers)}")
        return Answer(pictures, shortened(headers.get("x-request-id", ""), 80), _credits(headers))

    def _exchange(self, method: str, route: str, **options: Any) -> tuple[bytes, Mapping[str, str]]:
        url = self._base_url + route
        with self._api.open(method, url, auth=self._key, params=self._params, **options) as response:
            if not 200 <= response.status_code < 300:
                raise self._refusal(response)
            return read(response, MAX_ANSWER_BYTES), response.headers

    def _follow(self, url: str) -> bytes:
        try:
            address = urljoin(self._base_url + "/", url)
            with_key = not urlsplit(url).netloc
            for _ in range(1 + MAX_REDIRECTS):
                content, address = self._step(address, with_key=with_key)
                if content is not None:
                    return content
        except ValueError as err:  # of urllib and requests, for what is no address at all
            raise UnusableAnswer(_strange_address(url)) from err
        raise UnusableAnswer(f"The address of a picture redirects more than {MAX_REDIRECTS} times. {CHARGED}")

    def _step(self, address: str, *, with_key: bool) -> tuple[bytes | None, str]:
        """One hop of a download: the picture, or None and where it went."""
        is_ours = _origin(address) == self._origin
        if not is_ours and not address.startswith("https://"):
            raise UnusableAnswer(_strange_address(address))
        link = self._api if is_ours else self._web
        key = self._key if is_ours and with_key else _Headers({})
        with link.open("GET", address, auth=key) as response:
            if response.is_redirect:
                return None, urljoin(address, response.headers["location"])
            if response.status_code == 404 and with_key:
                raise UnusableAnswer(_strange_address(address))
            if response.status_code != 200:
                raise self._refusal(response)
            return read(response, MAX_DOWNLOAD_BYTES), address

    def _refusal(self, response: requests.Response) -> StatusError:
        detail = ErrorDetail.parse(self._redacted(read_some(response, MAX_ERROR_BYTES)))
        return StatusError(response.status_code, detail, headers=response.headers, signed_in=self._signed_in)

    def _unreadable(self, content: bytes, headers: Mapping[str, str]) -> str:
        start = content[:MAX_ERROR_BYTES].lstrip()
        if start.startswith(b"<"):
            what = "a web page instead of pictures. Check OPENAI_BASE_URL (it usually ends in /v1) and the network."
        else:
            what = "something that is no list of pictures, or only a part of one. Run again later."
        words = ErrorDetail.parse(self._redacted(start)).message if len(content) < MAX_ERROR_BYTES else ""
        said = f"\nThe server said: {words}" if words else ""
        return f"The server answered with {what} {CHARGED}{said}{_request_id(headers)}"

    def _redacted(self, content: bytes) -> bytes:
        """A body without our key, which some servers repeat in their errors."""
        for secret in self._secrets:
            content = content.replace(secret.encode(), b"***")
        return re.sub(rb"\b(sk|comfyui)-[\w*.-]{4,}", b"***", content)


def _secrets(headers: Mapping[str, str]) -> list[str]:
    parts = [part for value in headers.values() for part in value.split()]
    return [part for part in parts if len(part) >= MIN_SECRET_CHARACTERS]


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an absolute URL (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _strange_address(url: str) -> str:
    return (
        f"The server answered with a picture's address that cannot be fetched: {shortened(url.partition('?')[0], 80)} "
        "(it must be https, or of the API's own address). A file path means that the server ignored "
        f"response_format=b64_json: configure it to answer with base64. {CHARGED}"
    )


def _request_id(headers: Mapping[str, str]) -> str:
    value = shortened(headers.get("x-request-id", ""), 80)
    return f"\nRequest id: {value}" if value else ""


def _credits(headers: Mapping[str, str]) -> float | None:
    try:
        value = float(headers.get("x-comfy-credits-used", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
