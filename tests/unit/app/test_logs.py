"""processor.logs: every message in one form, whoever wrote it, and no secret in a traceback."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from processor import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(level: str = "info", form: str = "json", stream: io.StringIO | None = None) -> io.StringIO:
    stream = stream or io.StringIO()
    logs.configure(level, form, stream)  # type: ignore[arg-type]
    return stream


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_message_is_one_json_object_in_reading_order() -> None:
    stream = configured()
    structlog.get_logger().info("partition restored", partition=3, seconds=1.5, path=io.StringIO)
    (entry,) = entries(stream)
    assert list(entry)[:3] == ["timestamp", "level", "event"]
    assert (entry["level"], entry["event"], entry["partition"], entry["seconds"]) == ("info", "partition restored", 3, 1.5)
    assert datetime.fromisoformat(str(entry["timestamp"])).utcoffset() == timedelta(0)


def test_a_message_of_many_lines_stays_one_line() -> None:
    stream = configured()
    structlog.get_logger().info("two\nlines", text="a\nb")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_all(level: str, written: int) -> None:
    stream = configured(level)
    for log in (structlog.get_logger(), logging.getLogger("some.library")):
        for name in ("debug", "info", "warning", "error"):
            getattr(log, name)("said")
    assert len(entries(stream)) == 2 * written


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    assert configured(form="auto", stream=(terminal := Terminal())) is terminal
    structlog.get_logger().info("hello", sensor="pump-7")
    assert "hello" in terminal.getvalue()
    assert "{" not in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    plain = configured(form="auto")
    structlog.get_logger().info("hello")
    assert entries(plain)[0]["event"] == "hello"


def test_console_can_be_asked_for_without_colours() -> None:
    stream = configured(form="console")
    structlog.get_logger().info("hello", partition=3)
    assert "hello" in stream.getvalue()
    assert "partition=3" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_librdkafka_and_libraries_speak_in_the_same_form() -> None:
    stream = configured()
    logging.getLogger(logs.LIBRDKAFKA).warning("FAIL [%s] %s", "rdkafka#consumer-1", "broker down")
    (entry,) = entries(stream)
    assert (entry["level"], entry["logger"], entry["event"]) == ("warning", "librdkafka", "FAIL [rdkafka#consumer-1] broker down")


def test_warnings_are_messages() -> None:
    stream = configured()
    warnings.warn("old way", UserWarning, stacklevel=1)
    (entry,) = entries(stream)
    assert (entry["level"], entry["logger"]) == ("warning", "py.warnings")
    assert "old way" in str(entry["event"])


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_told_whole_without_local_variables(form: str) -> None:
    stream = configured(form=form)
    password = "correct-" + "horse"  # a local variable that a rich traceback would print
    try:
        raise RuntimeError("broke")
    except RuntimeError:
        structlog.get_logger().exception("failed", length=len(password))
    assert "RuntimeError: broke" in stream.getvalue()
    assert "Traceback" in stream.getvalue()
    assert "correct-horse" not in stream.getvalue()


def test_configuring_again_replaces() -> None:
    log = structlog.get_logger()
    first = configured()
    log.info("one")
    second = configured("error")
    log.info("two")
    log.error("three")
    assert [entry["event"] for entry in entries(first)] == ["one"]
    assert [entry["event"] for entry in entries(second)] == ["three"]


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("hello")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "hello"
    assert captured.out == ""


def test_what_librdkafka_repeats_is_told_once_in_a_while():
    now_s, lines = [0.0], logs._Repeats(lambda: now_s[0])

    def told(text: str) -> bool:
        return lines.filter(logging.LogRecord("librdkafka", logging.ERROR, "", 0, text, (), None))

    assert told("FAIL broker 1: refused after 12 ms")
    assert not told("FAIL broker 2: refused after 9 ms")
    assert told("another thing")
    now_s[0] = logs.REPEAT_S
    assert told("FAIL broker 1: refused after 7 ms")


# What is kept for the status page.


def test_warnings_and_errors_are_kept_newest_first_with_their_figures() -> None:
    configured("debug")
    recent = logs.keep_recent()
    structlog.get_logger().info("partition restored")
    structlog.get_logger().warning("partitions lost", partitions=[1, 2])
    logging.getLogger("some.library").error("no luck with %s", "it")
    kept = recent.messages()
    assert [(m["level"], m["event"], m["times"]) for m in kept] == [("error", "no luck with it", 1), ("warning", "partitions lost", 1)]
    assert (kept[0]["logger"], kept[1]["partitions"]) == ("some.library", [1, 2])
    assert datetime.fromisoformat(kept[0]["timestamp"]).utcoffset() == timedelta(0)


def test_what_is_said_again_and_again_is_kept_once_with_its_count() -> None:
    configured()
    recent = logs.keep_recent()
    structlog.get_logger().error("disk full")
    for attempt in range(100):
        structlog.get_logger().warning("transaction aborted", in_a_row=attempt)
    assert [(m["event"], m["times"]) for m in recent.messages()] == [("transaction aborted", 100), ("disk full", 1)]
    assert recent.messages()[0]["in_a_row"] == 99


def test_what_is_said_by_turns_is_kept_once_each_in_the_order_of_the_last_time() -> None:
    configured()
    recent = logs.keep_recent()
    for client in range(6):
        logging.getLogger("some.library").error(f"FAIL [client-{client}] 127.0.0.1:{9000 + client}: refused (after {client}ms)")
        structlog.get_logger().error("disk full")
        structlog.get_logger().warning("disk full")
    kept = [(m["level"], m["event"], m["times"]) for m in recent.messages()]
    assert kept == [
        ("warning", "disk full", 6),
        ("error", "disk full", 6),
        ("error", "FAIL [client-5] 127.0.0.1:9005: refused (after 5ms)", 6),
    ]


def test_no_more_are_kept_than_are_shown_and_none_is_long() -> None:
    configured()
    recent = logs.keep_recent()
    for number in range(3 * logs.RECENT_MAX):
        structlog.get_logger().warning(f"message {'i' * number}", text="x" * 100_000)
    kept = recent.messages()
    assert len(kept) == logs.RECENT_MAX
    assert kept[0]["event"] == f"message {'i' * (3 * logs.RECENT_MAX - 1)}"
    assert max(len(m["text"]) for m in kept) == logs.RECENT_TEXT_MAX + 3


def test_of_a_traceback_what_it_was_is_kept_and_no_variable() -> None:
    configured("debug", "console", Terminal())
    recent = logs.keep_recent()
    password = "swordfish"
    try:
        raise ValueError(f"no broker for {len(password)}")
    except ValueError:
        structlog.get_logger().exception("failed")
    (kept,) = recent.messages()
    assert kept["exception"] == "ValueError: no broker for 9"
    assert "swordfish" not in str(kept)
