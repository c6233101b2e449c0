"""Logging to standard error.

Responsible for a uniform format of all messages: those of the service, of libraries through standard-library logging, of librdkafka (pass
`logging.getLogger("librdkafka")` to a client as its `logger`), and Python's warnings. Not responsible for the content, nor for a
command's results, which go to standard output.

A message is an event with values: `structlog.get_logger().info("partition restored", partition=3, seconds=1.2)`. The latest warnings and
errors can also be kept in memory (`keep_recent`), for the status page.
"""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

LIBRDKAFKA = "librdkafka"
REPEAT_S = 10.0
HIDDEN = "(hidden)"
HIDDEN_CHARACTERS_MIN = 4  # shorter values would match parts of ordinary words
RECENT_MAX = 30
RECENT_TEXT_MAX = 1000


class Secrets:
    """The values that no log line may contain, from any source: libraries and tracebacks can quote their arguments."""

    def __init__(self) -> None:
        self._values: tuple[str, ...] = ()
        self._pattern: re.Pattern[str] | None = None

    def keep(self, values: Iterable[str]) -> None:
        """Replaces the secrets by these: each whole, by line and by word, and in JSON and Python notation."""
        self._values = tuple(values)
        pieces = set[str]()
        for value in self._values:
            lines = [line for line in value.splitlines() if not line.startswith("-----")]  # the first and last line of a key are not secret
            pieces |= {value, *(piece for line in lines for piece in (line, *line.split()))}
        pieces = {piece for piece in pieces if len(piece) >= HIDDEN_CHARACTERS_MIN}
        forms = {form for piece in pieces for form in (piece, json.dumps(piece)[1:-1], repr(piece)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def add(self, value: str) -> None:
        """Adds one more secret."""
        if value not in self._values:
            self.keep([*self._values, value])

    def hide(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def hide_within(self, value: Any) -> Any:
        """Hides secrets within a value of a message: text, or a container of text."""
        if isinstance(value, dict):
            return {key: self.hide_within(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_within(inner) for inner in value]
        return value if value is None or isinstance(value, bool | int | float) else self.hide(str(value))


SECRETS = Secrets()  # one per process, like logging: the messages of all threads pass through it


def configure(level: str, format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:  # noqa: A002
    """Routes everything to `stream` (standard error). Calling it again replaces what was there."""
    stream = stream if stream is not None else sys.stderr
    as_console = format == "console" or (format == "auto" and stream.isatty())
    _route_standard_logging(level, stream, _last_steps(as_console=as_console, colors=stream.isatty()))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_first_steps(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers that modules created before configure() must follow it
    )


def keep_recent() -> "Recent":
    """Keeps messages of level warning or above from now on. Call after configure()."""
    recent = Recent()
    logging.getLogger().addHandler(recent)
    return recent


class Recent(logging.Handler):
    """The last RECENT_MAX warnings and errors, as logged. Any thread writes, the web thread reads.

    Messages that differ only in their values and in text in brackets are kept once, with a count: while a broker is away each thread of
    each client reports it, which must not displace earlier messages.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(_formatter(_last_steps(as_console=False, colors=False)))
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def emit(self, record: logging.LogRecord) -> None:  # the handler's lock is held
        message = {key: _short(value) for key, value in json.loads(self.format(record)).items()}
        key = message["level"], re.sub(r"\d+|\[[^]]*\]|\([^)]*\)", "", message["event"])
        before = self._kept.pop(key, None)
        self._kept[key] = {**message, "times": before["times"] + 1 if before else 1}
        if len(self._kept) > RECENT_MAX:
            del self._kept[next(iter(self._kept))]

    def messages(self) -> list[dict[str, Any]]:
        """Newest first: timestamp, level, event, times, and the message's values."""
        self.acquire()
        try:
            return list(reversed(self._kept.values()))
        finally:
            self.release()


def _short(value: Any) -> Any:
    """The last line of a traceback, which names the exception."""
    if not isinstance(value, str):
        return value
    text = value.rstrip().rpartition("\n")[2] if value.startswith("Traceback") else value
    return text if len(text) <= RECENT_TEXT_MAX else text[:RECENT_TEXT_MAX] + "..."


def _first_steps() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _last_steps(*, as_console: bool, colors: bool) -> list[Processor]:
    if as_console:
        # The default traceback prints local variables, which include a client's properties with secrets in clear text.
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        return [lambda logger, method, event: SECRETS.hide(console(logger, method, event))]
    return [structlog.processors.format_exc_info, _reading_order, _without_secrets, structlog.processors.JSONRenderer(default=str)]


def _reading_order(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _without_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: SECRETS.hide_within(value) for key, value in event.items()}


def _formatter(last: list[Processor]) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _name_of_origin, *_first_steps()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _route_standard_logging(level: str, stream: TextIO, last: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(last))
    librdkafka = logging.getLogger(LIBRDKAFKA)
    librdkafka.filters[:] = [_Repeats()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    warnings.simplefilter("default")


# What librdkafka appends to an error: the state of its state machine, and generic guesses.
_GUESSES = re.compile(
    r" \((?:after \d+ms in state[^()]*(?:\(s\) suppressed)?|add broker's CA|install ca-cert|brew install)[^()]*\)"
    r"|: (?:requesting ApiVersion: )?might be caused by .*\(see api\.version\.request\)"
    r"|: verify that security\.protocol is .* SASL authentication"
    r"|: client SSL authentication might be required \([^)]*\)"
    r"|: broker certificate could not be verified, verify that .* are installed"
    r"|: connecting to a PLAINTEXT broker listener\?"
    r"|: increase receive\.message\.max\.bytes"
)


def plain(text: str) -> str:
    """The text of a librdkafka error without its generic advice, which usually concerns other causes."""
    return _GUESSES.sub("", text)


class _Repeats(logging.Filter):
    """Passes a message once in REPEAT_S: while a broker is away each client reports it many times a second."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._said_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = plain(record.getMessage()), ()
        words = re.sub(r"\d+", "0", record.msg)
        now_s = self._now_s()
        self._said_at_s = {told: at_s for told, at_s in self._said_at_s.items() if now_s - at_s < REPEAT_S}
        if words in self._said_at_s:
            return False
        self._said_at_s[words] = now_s
        return True


def _name_of_origin(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Adds the name of the library that a message comes from."""
    event["logger"] = event["_record"].name
    return event
