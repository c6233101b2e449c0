"""Files of a web server by https, and requests to one. Never follows a redirect to a place without TLS that it did not begin at."""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from processor.errors import SlotstreamError
from processor.remote.place import Pinned, missing, refused, unreachable

PART_BYTES = 1 << 20
TIMEOUT_S = 30.0
HOW = "set model.store: {token: {file: PATH}}, or username and password: {file: PATH}"


class _Redirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            fp.close()
            raise URLError("it redirects to a place without TLS")
        again = super().redirect_request(req, fp, code, msg, headers, newurl)
        if again is not None and again.host != req.host:
            again.remove_header("Authorization")
        return again


_opener = build_opener(_Redirects, HTTPSHandler)


def authorization(options: Mapping[str, str]) -> dict[str, str]:
    """The header that options ask for: token, or username and password."""
    if token := options.get("token"):
        return {"Authorization": f"Bearer {token}"}
    if user := options.get("username"):
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{options.get('password', '')}".encode()).decode()}
    return {}


def opened(url: str, shown: str, headers: Mapping[str, str]) -> Any:
    """The open answer to a GET. Raises SlotstreamError in the words of model.path."""
    try:
        return _opener.open(Request(url, headers=dict(headers)), timeout=TIMEOUT_S)  # noqa: S310 (https, or the http of an MLflow server)
    except HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise refused(shown, f"HTTP {error.code}", HOW) from None
        if error.code in (404, 410):
            raise missing(shown, f"HTTP {error.code}") from None
        raise unreachable(shown, f"HTTP {error.code} {error.reason}") from None
    except (URLError, OSError, HTTPException, ValueError) as error:
        raise unreachable(shown, str(getattr(error, "reason", error))) from None


def parts(answer: Any, shown: str) -> Iterator[bytes]:
    length, got = answer.headers.get("Content-Length"), 0
    try:
        while part := answer.read(PART_BYTES):
            got += len(part)
            yield part
    except (OSError, HTTPException) as error:
        raise unreachable(shown, str(error)) from None
    if length is not None and got < int(length):
        raise unreachable(shown, f"the answer ended after {got:,} of {int(length):,} bytes")


def asked(url: str, shown: str, headers: Mapping[str, str], **query: str) -> Any:
    """An answer in JSON."""
    with opened(f"{url}?{urlencode(query)}" if query else url, shown, headers) as answer:
        try:
            return json.load(answer)
        except ValueError:
            raise unreachable(shown, f"{url} answers with something else than JSON") from None


class WebFile:
    """An https:// address. options: token, or username and password."""

    def __init__(self, url: str, shown: str, options: Mapping[str, str]) -> None:
        self.url, self.shown, self._headers = url, shown, authorization(options)

    def look(self) -> Pinned:
        with opened(self.url, self.shown, self._headers) as answer:
            return _pinned(answer.headers)

    def read(self, pinned: Pinned) -> Iterator[bytes]:
        with opened(self.url, self.shown, self._headers) as answer:
            if _pinned(answer.headers).version != pinned.version:
                raise SlotstreamError(f"{self.shown} changed while it was read", expected="a file that stays", do="start again")
            yield from parts(answer, self.shown)


def _pinned(headers: Any) -> Pinned:
    version, length = headers.get("ETag") or headers.get("Last-Modified"), headers.get("Content-Length")
    return Pinned(version, version or "no version", int(length) if length and length.isdecimal() else None)


def environment(name: str) -> str:
    """MLflow's own variables, which its clients read as well."""
    return os.environ.get(f"MLFLOW_TRACKING_{name}", "")
