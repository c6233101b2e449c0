"""What outputs take of their records: fields as the sender wrote them, and headers."""

import json
from typing import Any

import numpy as np
import pytest
from judge import Record, echo, echo_model

from processor.app.fit import codec_of, record_bytes_of, shapes_of
from processor.codec.carry import CARRIED_BYTES_MAX, Carrier
from processor.errors import ConfigurationError
from processor.records import Applied
from processor.settings import Settings, load_settings
from processor.verify.judge import prediction
from processor.verify.oracle import Reference, as_published
from processor.verify.oracle_records import InputRecord

TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
EVENT = [("ce_id", b"17"), ("ce_source", b"/line/4"), ("ce_time", None), ("ce_id", b"18")]


def settings(*options: str) -> Settings:
    return load_settings(None, list(options), {})


def carried(value: bytes, *paths: str) -> bytes:
    """What the output says beside its own."""
    values: list[bytes | None] = [b'{"sensor":"a"}']
    assert Carrier(paths).add([Record(value)], [0], values) == [None]
    assert values[0] is not None
    return values[0].removeprefix(b'{"sensor":"a"')[:-1]


@pytest.mark.parametrize(
    "text",
    [b"1.10", b"-0.0", b"1e400", b"12345678901234567890123456789", b'"\\u00e9\\n\xc3\xa9"', b"[1, 2 ]", b'{ "a":[{}] }', b"true", b"null"],
)
def test_a_field_is_copied_as_the_text_that_it_is(text: bytes) -> None:
    assert carried(b'{"values":[1], "batch" : %b , "meta":{"deep":{"site":%b}}}' % (text, text), "batch", "meta.deep.site") == (
        b',"batch":%b,"site":%b' % (text, text)
    )


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        (b'{"a":1,"a":2}', "a", b',"a":2'),
        (b'{"a.b":1,"a":{"b":2}}', "a.b", b',"b":1'),
        (b'{"a.b":1,"a":{"b":2}}', '"a".b', b',"b":2'),
        (b'{"PR03.TT":{"x":5}}', '"PR03.TT".x', b',"x":5'),
        (b'{"a":{"a":{"a":7}}}', "a.a.a", b',"a":7'),
        (b'{"a":null}', "a.b", b',"b":null'),
        (b'{"a":[1]}', "a.b", b""),
        (b'{"b":1}', "a", b""),
        (b'{"values":[NaN],"a":{"n":1.10,"m":[NaN,"x"]},"b":2}', "a", b',"a":{"n":1.10,"m":[null,"x"]}'),
    ],
)
def test_a_field_is_found_as_any_other_and_left_out_where_there_is_none(value: bytes, path: str, expected: bytes) -> None:
    assert carried(value, path) == expected


def test_headers_are_those_that_are_named_in_their_order_with_their_repetitions() -> None:
    messages = [Record(h=[TRACE, *EVENT]), Record(h=None), Record(h=[("other", b"")])]
    outs: list[bytes | None] = [b"{}", b"{}", b"{}"]
    assert Carrier(["header:ce_id", "header:ce_time"]).add(messages, [0, 1, 2], outs) == [[EVENT[0], EVENT[2], EVENT[3]], None, None]
    assert Carrier(["header:*"]).add(messages, [0, 1, 2], outs) == [[TRACE, *EVENT], None, [("other", b"")]]
    assert outs == [b"{}"] * 3


def test_each_output_takes_of_its_own_record_and_none_of_a_record_without_one() -> None:
    messages = [Record(b"{"), Record(b'{"a":1}', h=[TRACE]), Record(None, h=[TRACE]), Record(b'{"a":3}')]
    outs: list[bytes | None] = [b'{"s":1}', None, b'{"s":3}']
    assert Carrier(["a", "header:*"]).add(messages, [1, 2, 3], outs) == [[TRACE], None, None]
    assert outs == [b'{"s":1,"a":1}', None, b'{"s":3,"a":3}']


def test_more_than_an_output_has_room_for_is_left_out_and_said() -> None:
    long = b'"%b"' % (b"x" * (CARRIED_BYTES_MAX - 7))
    outs: list[bytes | None] = [b'{"s":1}', b'{"s":2}']
    messages = [Record(b'{"a":%b}' % long), Record(b'{"a":%b}' % long, h=[("x", b"12")])]
    assert Carrier(["a", "header:x"]).add(messages, [0, 1], outs) == [None, None]
    assert outs == [b'{"s":1,"a":%b}' % long, b'{"s":2,"carried":false}']
    model = echo_model(2)
    sizes = [record_bytes_of(given, model, shapes_of(model, given)).output for given in (settings(), settings("--output.carry=a"))]
    assert sizes[1] - sizes[0] > CARRIED_BYTES_MAX


def test_the_reference_oracle_expects_the_same_fields_and_headers() -> None:
    given = settings("--output.carry=[meta.id, batch, header:traceparent]", "--input.missing=0")
    model = echo_model(2)
    by, reference = codec_of(given, model, "m"), Reference(model, given, "m", run=echo)
    value = b'{"values":[1,NaN],"meta":{"id":98765432109876543210},"batch":{"n":1.50}}'
    message = Record(value, h=[TRACE, ("sequence", b"start")])
    decoded = by.decode([message])
    no = np.zeros(1, np.bool_)
    last, residual = np.zeros(1, np.int64), np.full(1, np.nan, np.float32)
    applied = Applied(decoded.batch.x, last, decoded.batch.steps, residual, no, no, ~no, no, np.zeros(1, np.int8))
    values = by.encode(decoded.batch, applied)
    assert by.carrier is not None
    headers = by.carrier.add([message], decoded.source, values)
    record = InputRecord(message.p, message.o, message.k, message.v, message.record_ms, tuple(message.h or ()))
    expected: Any = reference.feed(record)
    assert (values[0] or b"").endswith(b',"id":98765432109876543210,"batch":{"n":1.50}}')
    assert as_published(values[0] or b"") == expected
    assert headers == [reference.headers_of(record)] == [[TRACE]]
    answers = [prediction(b"pump-7", values[0], 1, told)[1].said for told in ([TRACE], [])]
    assert json.loads(answers[0])["headers"]["0"][0] == "traceparent"
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output.carry=[meta.sensor]"], "outputs have a field sensor of their own"),
        (["--output.carry=[predicted_x]"], "outputs have a field predicted_x of their own"),
        (["--output.carry=[a.id, b.ID]"], "a name is there twice"),
        (["--output.carry=[a, header:x]", "--input.format=float32"], "a float32 record has no fields"),
    ],
)
def test_a_name_that_would_clash_is_refused(options: list[str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        settings(*options)
    assert settings("--output.carry=header:*", "--input.format=float32").output.carry == ("header:*",)
