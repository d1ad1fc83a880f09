"""Results as HTTP requests."""

import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from fastad.watch.delivery import RefusedError
from fastad.watch.journal import Pending
from fastad.watch.result_files import payload

TIMEOUT = 10.0  # seconds
LATER = {408, 425, 429}  # answers that, with those from 500 on, say to try again


class Webhook:
    """Posts each result as JSON. Any answer from 200 to 299 says that it was taken.

    The header ``Idempotency-Key`` is the same each time that a result is sent.

    Args:
        url: http:// or https://.
        token: is sent as ``Authorization: Bearer``. None for none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--webhook must begin with http:// or https://; got {url}")
        self.name = f"webhook at {parts.hostname}"  # a path may hold a secret
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": "fastad"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, pending: Pending) -> None:
        key = {"Idempotency-Key": pending.key}
        request = urllib.request.Request(
            self._url, payload(pending).encode(), self._headers | key, method="POST"
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            said = f"answered {error.code} {error.reason}"
            if error.code >= 500 or error.code in LATER:
                raise ConnectionError(said) from None
            raise RefusedError(said) from None
        except urllib.error.URLError as error:
            raise ConnectionError(str(error.reason)) from None

    def close(self) -> None:
        pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would arrive as a GET, without the result."""

    def redirect_request(self, *_: Any) -> None:
        return None


def token_of(path: str | os.PathLike[str]) -> str:
    """The token in a file. ValueError where it is empty or has several lines."""
    with open(path, encoding="utf-8") as file:
        token = file.read().strip()
    if not token or not token.isprintable():
        raise ValueError(f"{path} must hold a token on one line")
    return token
