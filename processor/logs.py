"""How the process writes what happens to standard error.

Responsible for one form for every message: the service's own, those of libraries through standard-library logging,
librdkafka's (hand `logging.getLogger("librdkafka")` to a client as its `logger`), and Python's warnings. Not responsible
for what is written, nor for a command's results, which go to standard output.

A message is an event and its figures: `structlog.get_logger().info("partition restored", partition=3, seconds=1.2)`.
"""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

LIBRDKAFKA = "librdkafka"
REPEAT_S = 10.0
HIDDEN = "(hidden)"
HIDDEN_CHARACTERS_MIN = 4  # what is shorter is found in every other word


class Secrets:
    """What no line may hold, whoever wrote it: libraries quote what they were given, tracebacks too."""

    def __init__(self) -> None:
        self._pattern: re.Pattern[str] | None = None

    def keep(self, values: Iterable[str]) -> None:
        """These, in place of earlier ones: whole, each of their lines and words, and as JSON and Python write them."""
        pieces = {piece for value in values for piece in (value, *value.split())}
        pieces = {piece for piece in pieces if len(piece) >= HIDDEN_CHARACTERS_MIN and not piece.startswith("-----")}
        forms = {form for piece in pieces for form in (piece, json.dumps(piece)[1:-1], repr(piece)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def hide(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


SECRETS = Secrets()  # of the process, as logging is: every message of whatever thread passes it


def configure(level: str, format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:  # noqa: A002
    """Routes everything to `stream` (standard error). Calling it again replaces what was there."""
    stream = stream if stream is not None else sys.stderr
    as_console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    _route_standard_logging(level, stream, shared, _last_steps(as_console=as_console, colors=stream.isatty()))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a module's logger made before configure must follow it
    )


def _last_steps(*, as_console: bool, colors: bool) -> list[Processor]:
    if as_console:
        # The default traceback prints local variables: among them are a client's properties, secrets in clear.
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, _reading_order, structlog.processors.JSONRenderer(default=str)]


def _reading_order(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _route_standard_logging(level: str, stream: TextIO, shared: list[Processor], last: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _name_of_origin, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    librdkafka = logging.getLogger(LIBRDKAFKA)
    librdkafka.filters[:] = [_Repeats()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    warnings.simplefilter("default")


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return SECRETS.hide(super().format(record))


class _Repeats(logging.Filter):
    """Lets a message through once in REPEAT_S: while a broker is away each client says so many times a second."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._said_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        words = re.sub(r"\d+", "0", record.getMessage())
        now_s = self._now_s()
        self._said_at_s = {told: at_s for told, at_s in self._said_at_s.items() if now_s - at_s < REPEAT_S}
        if words in self._said_at_s:
            return False
        self._said_at_s[words] = now_s
        return True


def _name_of_origin(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Says which library speaks: its messages are not written in this service's words."""
    event["logger"] = event["_record"].name
    return event
