"""Records read many at a time, beside the same records read one by one: no value may pose as two, and every verdict has the same words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judge import GOOD, RECORD_MS, Record

from processor.codec.decode import Decoded, Decoder, Format
from processor.codec.float32_records import Float32Format
from processor.codec.json_records import JsonFormat
from processor.codec.together import RECORDS_MAX, Together

SIZES: dict[str, Any] = {"features": 2, "record_steps_max": 3}
FORMATS = {
    "values": lambda: JsonFormat(**SIZES),
    "fields": lambda: JsonFormat(**SIZES, names=["a", "b"]),
    "dotted fields": lambda: JsonFormat(**SIZES, names=["p.a", "p.b"]),
    "fields of several objects": lambda: JsonFormat(**SIZES, names=["p.a", "q.b"]),
    "float32": lambda: Float32Format(**SIZES),
}
PLAIN = {
    "values": GOOD,
    "fields": b'{"a":1,"b":2}',
    "dotted fields": b'{"p":{"a":1,"b":2}}',
    "fields of several objects": b'{"p":{"a":1},"q":{"b":2}}',
    "float32": b"\0\0\x80\x3f\0\0\0\x40",
}
AHEAD_MAX_S = 3600.0
many = hypothesis_settings(max_examples=60, deadline=None, derandomize=True)


def decoder(format: Format, *, each_record: bool = False) -> Decoder:  # noqa: A002
    return Decoder(format, ahead_max_s=AHEAD_MAX_S, each_record=each_record)


def one_by_one(made: Decoder) -> Decoder:
    made._together.read = lambda *_: None  # type: ignore[method-assign]
    return made


def seen(decoded: Decoded) -> Any:
    """All that a batch holds, numbers by their bytes."""
    batch = decoded.batch
    arrays = [batch.offset, batch.event_ms, batch.record_ms, batch.steps, batch.reset_before, batch.reset_after, batch.x]
    lists = [batch.partition, batch.key, decoded.source, decoded.rejected]
    return [(a.dtype, a.shape, a.tobytes()) for a in arrays], lists, +decoded.resets


def compare(kind: str, records: list[Record], **options: Any) -> Decoded:
    found = decoder(FORMATS[kind](), **options).decode(records)
    assert seen(found) == seen(one_by_one(decoder(FORMATS[kind](), **options)).decode(records))
    return found


# -- values ------------------------------------------------------------------------------------------------------------------

# What records are made of, whole and cut: put together they pose as fewer or more than they are.
PIECES = [
    *PLAIN.values(),
    b'{"values":[1,2]',
    b'{"values":[[1,2],[3,4]]}',
    b'{"values":[1e999,2]}',
    b'{"values":[0.1,-0.0],"timestamp":%d}' % RECORD_MS,
    b'{"p":{"a":1}',
    b'{"p":',
    b'{"x":"',
    b'"values":[3,4]}',
    b'"a":3,"p":{"b":4}',
    b',"timestamp":1700000000000.5',
    b',"timestamp":"2023-11-14T22:13:20Z"',
    b',"timestamp":null',
    b',"p.a":7',
    b',"x":"\xff"',
    b',"x":"\xc3\xa9"',
    b',"x":[]',
    b',"x":{}',
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"\n",
    b" ",
    b"\r",
    b"\0",
]
hostile = st.lists(st.sampled_from(PIECES), max_size=4).map(b"".join)
numbers = st.floats(width=64, allow_nan=False, allow_infinity=False) | st.integers() | st.integers(-(2**70), 2**70)
times = st.sampled_from([None, RECORD_MS, RECORD_MS + 0.5, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, -0.5, "2023-11-14", "x", str(RECORD_MS)])
own = st.sampled_from([(1, RECORD_MS), (2, RECORD_MS), (0, -1), (1, RECORD_MS + 3_600_001), (1, 0)])
headers = st.sampled_from(
    [None, [], [("trace", b"x")], [("sequence", b"start")], [("sequence", b"?")], [("steps", b"2")], [("timestamp_unit", b"ms")]]
)


@st.composite
def written(draw: Any) -> bytes:
    """JSON with any numbers and a timestamp of any kind."""
    a, b, time = draw(numbers), draw(numbers), draw(times)
    shape = draw(st.sampled_from([{"values": [a, b]}, {"a": a, "b": b}, {"p": {"a": a, "b": b}}, {"p": {"a": a}, "q": {"b": b}}]))
    return json.dumps(shape if time is None else shape | {"timestamp": time}).encode()


@st.composite
def records(draw: Any, plain: bytes) -> list[Record]:
    """Mostly plain ones, so that what is not has somebody to pose as."""
    value = st.just(plain) | st.just(plain) | hostile | written() | st.binary(max_size=9) | st.none()
    made = []
    for offset, found in enumerate(draw(st.lists(value, min_size=1, max_size=5))):
        kind, record_ms = draw(own) if draw(st.booleans()) else (1, RECORD_MS)
        h = draw(headers) if draw(st.booleans()) else None
        made.append(
            Record(found, k=draw(st.sampled_from([b"k", b"", None, b"k" * 1025, b"l"])), h=h, o=offset, kind=kind, record_ms=record_ms)
        )
    return made


@pytest.mark.parametrize("each_record", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
@many
@given(st.data())
def test_any_records_read_together_are_what_they_are_one_by_one(kind, each_record, data):
    compare(kind, data.draw(records(PLAIN[kind])), each_record=each_record)


@pytest.mark.parametrize("kind", FORMATS)
@many
@given(st.data())
def test_any_plain_records_of_any_numbers_and_times_are_the_same(kind, data):
    value = st.binary(min_size=8, max_size=8) if kind == "float32" else written()
    compare(kind, [Record(v, o=o) for o, v in enumerate(data.draw(st.lists(value, min_size=1, max_size=5)))])


POSES = {
    "two in one, and none": [GOOD + GOOD, b""],
    "two in one, and a space": [GOOD + b" " + GOOD, b" "],
    "one in two": [b'{"values":[1,2]', b'}{"values":[3,4]}'],
    "one in two, before a brace": [b'{"values":[1,2],"x":', b'{"values":[3,4]}}', GOOD + GOOD],
    "one in two, with as many lists": [b'{"values":[1,2],"x":', b'{"y":[]}}'],
    "a newline within": [b'{"values":\n[1,2]}', GOOD],
    "a string over two": [b'{"values":[1,2],"x":"', b'{"', b'"}' + GOOD + GOOD],
    "a brace in a string": [b'{"values":[1,2],"x":"{"}', GOOD[:-1]],
}


@pytest.mark.parametrize("values", POSES.values(), ids=POSES)
def test_a_value_that_poses_as_two_or_as_a_half_is_refused_alone(values):
    found = compare("values", [Record(v, o=o) for o, v in enumerate([GOOD, *values, GOOD])])
    assert {0, len(values) + 1} <= set(found.source)


NESTED_POSES = {
    "an object over two": [b'{"p":{"a":1,"b":2}', b'}{"p":{"a":3,"b":4}}'],
    "braces moved to the next": [b'{"x":', b'{"p":{"a":1,"b":2}}}{"p":{"a":1,"b":2}}'],
    "braces moved to the one before": [b'{"p":{"a":1,"b":2}}{"p":', b'{"a":1,"b":2}}'],
}


@pytest.mark.parametrize("values", NESTED_POSES.values(), ids=NESTED_POSES)
def test_nested_values_pose_as_no_others_either(values):
    found = compare("dotted fields", [Record(v, o=o) for o, v in enumerate([PLAIN["dotted fields"], *values])])
    assert found.source[0] == 0


# -- which way is taken --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("h", [None, [("trace", b"x")], [("sequence", b"single")]])
def test_plain_records_are_read_together(kind, h):
    made = decoder(FORMATS[kind]())
    assert made._together.read([Record(PLAIN[kind], h=h)] * 3, 0) is not None


def test_a_record_that_is_not_plain_leaves_the_next_ones_together(monkeypatch):
    taken = []
    read = Together.read
    monkeypatch.setattr(Together, "read", lambda self, *given: taken.append(read(self, *given)) or taken[-1])
    values = [GOOD] * (2 * RECORDS_MAX + 3)
    values[RECORDS_MAX] = b"x"
    found = compare("values", [Record(v, o=o) for o, v in enumerate(values)])
    assert [i for i, _ in found.rejected] == [RECORDS_MAX]
    assert [part is not None for part in taken] == [True, False, True]


def test_literal_keys_with_dots_go_before_nested_ones_in_company_too():
    both = b'{"p":{"a":1,"b":2},"p.a":7}'
    found = compare("dotted fields", [Record(v, o=o) for o, v in enumerate([PLAIN["dotted fields"], both, b'{"p.a":3,"p.b":4}'])])
    assert found.batch.x.tolist() == [[1, 2], [7, 2], [3, 4]]


def test_numbers_are_read_to_the_last_bit():
    texts = [b"0.1", b"1e-320", b"9007199254740993", b"2.2250738585072011e-308", b"1.7976931348623157e308", b"0.30000000000000004"]
    values = [b'{"values":[%b,%b]}' % (a, b) for a in texts for b in texts]
    x, _ = JsonFormat(**SIZES).together(values) or pytest.fail("not read together")
    assert x.tolist() == [[float(a), float(b)] for a in texts for b in texts]
