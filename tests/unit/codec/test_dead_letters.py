"""Dead letters: what of the record is kept, what is added, and what goes when the topic does not take it all."""

from functools import partial

import judge
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from processor.codec.dead_letters import OVERHEAD_BYTES, BadShare, Refusals, dead_letter
from processor.errors import DeadLetterLimit
from processor.records import Out, Rejected

REJECTED = Rejected(3, 88123, "bad_schema", "values is no list")
OWN = [
    ("error", b"bad_schema"),
    ("error_detail", b"values is no list"),
    ("source_topic", b"readings"),
    ("source_partition", b"3"),
    ("source_offset", b"88123"),
]
LIMIT = 4000


Record = partial(judge.Record, v=b"\xff no JSON", o=88123)


def letter(record: judge.Record, rejected: Rejected = REJECTED, *, bytes_max: int = LIMIT) -> Out:
    return dead_letter(record, rejected, source_topic="readings", topic="readings.dead-letter", partition=3, bytes_max=bytes_max)


def size(out: Out) -> int:
    """What a broker counts, without its own overhead: the bytes of key, value and headers."""
    return len(out.key or b"") + len(out.value or b"") + sum(len(name.encode()) + len(text) for name, text in out.headers or [])


def test_key_value_time_and_place_are_the_records_own():
    out = letter(Record())
    assert out == Out("readings.dead-letter", 3, b"pump-7", b"\xff no JSON", 1_700_000_000_000, OWN)


def test_the_records_headers_come_first_and_unchanged():
    headers = [("trace", b"\xff"), ("error", b"its own"), ("trace", b"")]
    assert letter(Record(h=headers)).headers == headers + OWN


def test_a_header_without_a_value_is_kept_as_an_empty_one():
    assert letter(Record(h=[("trace", None)])).headers == [("trace", b""), *OWN]


def test_the_records_own_list_of_headers_is_left_alone():
    headers: list[tuple[str, bytes | None]] = [("trace", b"x")]
    letter(Record(h=headers))
    assert headers == [("trace", b"x")]


@pytest.mark.parametrize(("key", "value"), [(None, b"x"), (b"k", None), (b"", b""), (None, None)])
def test_nothing_and_empty_stay_different(key, value):
    out = letter(Record(k=key, v=value))
    assert (out.key, out.value) == (key, value)


def test_a_detail_that_is_no_utf8_is_written_with_question_marks():
    out = letter(Record(), Rejected(3, 88123, "bad_schema", "half \ud83d"))
    assert ("error_detail", b"half ?") in out.headers


def value_max() -> int:
    """The longest value that fits, found by trying."""
    return max(n for n in range(LIMIT) if letter(Record(v=b"x" * n)).value is not None)


def test_a_value_that_just_fits_is_kept():
    out = letter(Record(v=b"x" * value_max()))
    assert out.headers == OWN
    assert size(out) + OVERHEAD_BYTES <= LIMIT


def test_a_byte_more_and_the_value_goes_and_its_length_is_told():
    length = value_max() + 1
    out = letter(Record(v=b"x" * length, h=None))
    assert (out.key, out.value, out.headers) == (b"pump-7", None, [*OWN, ("truncated", str(length).encode())])


def test_a_truncated_letter_keeps_the_records_headers_if_they_fit():
    out = letter(Record(v=b"x" * LIMIT, h=[("trace", b"t" * 100)]))
    assert out.headers[0] == ("trace", b"t" * 100)


def test_headers_go_before_the_key_and_ours_never():
    out = letter(Record(v=b"x" * 10, h=[("trace", b"t" * LIMIT), ("trace", b"u")]))
    assert out.key == b"pump-7"
    assert out.headers == [("trace", b"u"), *OWN, ("truncated", b"10")]


def test_a_key_too_large_for_the_topic_is_cut():
    out = letter(Record(k=b"k" * 2 * LIMIT))
    assert out.key == b"k" * len(out.key)
    assert 0 < len(out.key) < LIMIT
    assert ("error", b"bad_schema") in out.headers


def test_the_names_of_headers_count_by_their_bytes():
    out = letter(Record(v=b"x" * 10, h=[("ü" * 2500, b"")]))
    assert size(out) <= LIMIT


header = st.tuples(st.text("aü😀", max_size=40), st.none() | st.binary(max_size=1500))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    value=st.none() | st.integers(0, 6000).map(lambda n: b"x" * n),
    key=st.none() | st.integers(0, 6000).map(lambda n: b"k" * n),
    headers=st.none() | st.lists(header, max_size=12),
    limit=st.integers(1200, 6000),
)
def test_no_letter_is_larger_than_the_topic_takes_and_all_say_why_and_whence(value, key, headers, limit):
    out = letter(Record(v=value, k=key, h=headers), bytes_max=limit)
    assert size(out) + OVERHEAD_BYTES <= limit
    own = [pair for pair in out.headers if pair[0] != "truncated"][-len(OWN) :]
    assert own == OWN
    whole = Out(out.topic, 3, key, value, out.record_ms, [(name, text or b"") for name, text in headers or []] + OWN)
    if size(whole) + OVERHEAD_BYTES + 10 * len(whole.headers) <= limit:
        assert out == whole


# -- what is told of them -----------------------------------------------------------------------------------------------------


def refused(error: str, offset: int, detail: str = "it is no number") -> Rejected:
    return Rejected(3, offset, error, detail)


def test_the_first_record_of_each_reason_is_told_at_once_and_then_one_line_a_minute():
    now_s = 0.0
    refusals = Refusals(lambda: now_s)
    with capture_logs() as log:
        refusals.tell([b"pump-7", None, b"\xff"], [refused("bad_schema", 1), refused("no_key", 2), refused("bad_schema", 3)])
        assert [(line["error"], line["offset"], line["key"], line["since_the_last_line"]) for line in log] == [
            ("bad_schema", 1, "pump-7", 1),
            ("no_key", 2, None, 1),
        ]
        assert log[0]["detail"] == "it is no number"
        now_s = 59.9
        refusals.tell([b"pump-7"] * 500, [refused("bad_schema", i) for i in range(4, 504)])
        assert len(log) == 2
        now_s = 60.0
        refusals.tell([b"pump-8"] * 2, [refused("bad_schema", 600), refused("bad_schema", 601)])
        assert [(line["offset"], line["since_the_last_line"]) for line in log[2:]] == [(600, 502)]


def test_at_the_limit_the_latest_record_of_each_reason_is_told():
    share = BadShare(0.5, "readings.dead-letter")
    bad = [(i, refused("bad_schema" if i % 3 else "no_key", i)) for i in range(90)]
    with pytest.raises(DeadLetterLimit) as caught:
        share.add([Record(k=b"pump-%d" % i) for i in range(150)], bad)
    said = str(caught.value)
    assert "90 of the last 150 records are bad" in said
    assert "bad_schema (60 times), the latest: partition 3, offset 89, key pump-89: it is no number" in said
    assert "no_key (30 times), the latest: partition 3, offset 87" in said
    assert "not in readings.dead-letter" in said, "the dead letters were not committed"
