"""The chain from messages to outputs and dead letters, with a step in NumPy: no model, no broker."""

from contextlib import contextmanager

import orjson
import pytest
from stepper import Decay

from processor.codec.carry import Carrier
from processor.codec.decode import Decoder
from processor.codec.encode import Encoder
from processor.codec.json_records import JsonFormat
from processor.codec.plain_message import PlainMessage
from processor.engine import Engine, Shapes
from processor.partitions import Beginning, Partition, Position
from processor.pipeline import LEFT_OUT, Codec, Pipeline, clock_of, positions_after
from processor.records import Output
from processor.rules import Clock, Rules


def message(offset, value, time_ms=1000):
    return PlainMessage(b"pump", value, number=2, at=offset, time_ms=time_ms)


def pipeline(rules=Rules(), carry=(), **options):  # noqa: B008 - it is frozen
    decoder = Decoder(JsonFormat(features=1, record_steps_max=10), ahead_max_s=3600, each_record=False)
    encoder = Encoder(model_id="decay", outputs=[Output("y", 0, 1)], scales=[None], residual=False)
    engine = Engine(Decay(), Shapes(features=1, outputs=1, width=1), rules, slots=4)
    return Pipeline(Codec(decoder.decode, encoder.encode, Carrier(carry) if carry else None), engine, rules.expire_ms, **options), engine


def predictions(done):
    return [value and orjson.loads(value)["prediction"] for value in done.values]


def test_each_message_ends_in_an_output_or_a_dead_letter_and_states_go_on():
    chain, _ = pipeline()
    done = chain.process([message(5, b'{"values":[2]}'), message(6, b"{"), message(7, b'{"values":[3]}')], {2: Clock()})
    assert predictions(done) == [[2], [4]]
    assert [(i, reason.error, reason.offset) for i, reason in done.rejected] == [(1, "bad_encoding", 6)]
    assert done.clocks == {2: Clock(1000, 1000)}


def test_outputs_carry_what_is_asked_of_their_records():
    chain, _ = pipeline(carry=["batch", "header:trace"])
    told = PlainMessage(b"pump", b'{"values":[2],"batch":1.50}', number=2, at=5, time_ms=1000, told=[("trace", b"x"), ("other", b"y")])
    done = chain.process([message(4, b"{"), told, message(6, None)], {2: Clock()})
    assert [value and value[-15:] for value in done.values] == [b',"batch":1.50}'.rjust(15, b'"'), None]
    assert done.headers == [[("trace", b"x")], None]
    assert pipeline()[0].process([told], {2: Clock()}).headers is None


def test_what_the_engine_leaves_out_is_a_dead_letter_among_those_of_the_codec():
    chain, _ = pipeline(Rules(late=True))
    huge = b'{"values":[3e38]}'
    messages = [message(5, huge), message(6, huge), message(7, b"{"), message(8, b'{"values":[1]}', time_ms=5)]
    done = chain.process(messages, {2: Clock()})
    assert [(i, reason.error) for i, reason in done.rejected] == [(1, "non_finite_state"), (2, "bad_encoding"), (3, "late")]
    assert {reason.detail for _, reason in done.rejected if reason.error in LEFT_OUT} == {LEFT_OUT["non_finite_state"], LEFT_OUT["late"]}
    assert [value is None for value in done.values] == [False, True, True]


def test_a_replay_gives_no_outputs_and_the_state_that_the_first_run_gave():
    chain, engine = pipeline()
    readings, clocks = chain.replay([message(5, b'{"values":[2]}'), message(6, b'{"values":[3]}')], {2: Clock()})
    assert (readings, clocks, engine.undo.empty) == (2, {2: Clock(1000, 1000)}, True)
    assert predictions(chain.process([message(7, b'{"values":[1]}')], clocks)) == [[3]]


def test_the_stages_are_timed_in_their_order():
    seen = []

    @contextmanager
    def timed(stage):
        seen.append(stage)
        yield

    pipeline(timed=timed)[0].process([message(5, b'{"values":[2]}')], {2: Clock()})
    assert seen == ["decode", "apply", "encode"]


@pytest.mark.parametrize(("value", "expected"), [(b'{"values":[2]}', Position(8, 1000, 1000)), (b"{", Position(8, 70, 60))])
def test_a_partition_moves_past_its_last_message_be_it_a_dead_letter_or_not(value, expected):
    chain, _ = pipeline()
    partition = Partition(2, 0.0, applied=Position(7, 70, 60 if value == b"{" else 1000))
    messages = [message(7, value)]
    done = chain.process(messages, {2: clock_of(partition, partition.applied)})
    assert positions_after(messages, {2: partition}, done.clocks) == [(partition, expected)]


def test_the_time_of_a_lineage_with_a_gap_says_so():
    partition = Partition(2, 0.0, beginning=Beginning(5, "00aa", "f" * 64, "topic-id", 8, gap=True))
    assert clock_of(partition, Position(9, 7, 6)) == Clock(7, 6, gap=True)
