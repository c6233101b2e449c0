"""Which pages there are beside metrics and probes: the status page, its parts, and its figures.

Responsible for their content types and for the files of the folder page/, read once at the start: nothing that a request names is ever
opened. The page needs nothing from elsewhere, and its headers let nothing from elsewhere in.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import PurePath

from processor.app.health import About
from processor.logs import Recent
from processor.metrics import Metrics
from processor.web.samples import History
from processor.web.status import Source, Status

HTML = "text/html; charset=utf-8"
TYPES = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Page:
    content_type: str
    content: Callable[[], bytes]


Pages = Mapping[str, Page]


def page_files() -> dict[str, Page]:
    """By path: `/` and `/page/...`."""
    pages = {}
    for file in resources.files("processor.web").joinpath("page").iterdir():
        suffix = PurePath(file.name).suffix
        if suffix in TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            pages[path] = Page(TYPES[suffix], partial(bytes, file.read_bytes()))
    return pages


@contextmanager
def status_pages(about: About, metrics: Metrics, source: Source, recent: Recent) -> Iterator[Pages]:
    """The pages of a service, whose figures are noted until the block ends."""
    history = History(metrics)
    status = Status(about, metrics, source, history, recent)
    with history.taking():
        yield {**page_files(), "/status.json": Page("application/json", status.json)}
