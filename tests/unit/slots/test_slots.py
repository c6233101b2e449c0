"""Slots: a ragged batch as tiles, and where every sensor's row is, in a slot or parked."""

import itertools
import resource
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.errors import ConfigurationError, SlotstreamError
from processor.slots.parking import PIECE_ROWS, Parking, StateFile
from processor.slots.plan import plan
from processor.slots.rows import Rows
from processor.slots.table import ABSENT, Table

W = 2


class Shape(NamedTuple):
    rows: int
    steps_max: int


LADDER = [Shape(8, 256), Shape(64, 64), Shape(128, 32), Shape(256, 16), Shape(512, 16), Shape(1024, 16), Shape(2048, 8), Shape(4096, 8)]


def tiles(counts, shapes):
    return list(plan(np.array(sorted(counts, reverse=True), np.int64), shapes))


# -- the plan -----------------------------------------------------------------------------------------------

ladder = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4, unique_by=lambda s: s[0]).map(
    lambda found: [Shape(*s) for s in sorted(found)]
)
counts = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 40)), max_size=90)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(counts=counts, shapes=ladder)
def test_tiles_cover_every_step_of_every_sequence_once_and_in_order(counts, shapes):
    counts = sorted(counts, reverse=True)
    done = [0] * len(counts)
    for tile in tiles(counts, shapes):
        assert tile.step_from < tile.step_to
        for i in range(tile.first, tile.last):
            assert done[i] == min(tile.step_from, counts[i]), "the steps of a sequence follow one another"
            assert tile.step_from < counts[i], "a row of a tile has something to do"
            done[i] = min(tile.step_to, counts[i])
    assert done == counts


@settings(max_examples=400, deadline=None, derandomize=True)
@given(counts=counts, shapes=ladder)
def test_no_tile_is_larger_than_its_rung(counts, shapes):
    for tile in tiles(counts, shapes):
        assert 0 < tile.last - tile.first <= shapes[tile.rung].rows
        assert tile.step_to - tile.step_from <= shapes[tile.rung].steps_max


@settings(max_examples=200, deadline=None, derandomize=True)
@given(counts=counts, shapes=ladder)
def test_a_tile_takes_the_smallest_rung_that_holds_its_rows(counts, shapes):
    for tile in tiles(counts, shapes):
        assert tile.rung == 0 or tile.last - tile.first > shapes[tile.rung - 1].rows


@settings(max_examples=200, deadline=None, derandomize=True)
@given(counts=counts, shapes=ladder)
def test_a_tile_goes_as_far_as_its_rung_allows_or_until_a_smaller_one_will_do(counts, shapes):
    found = tiles(counts, shapes)
    for tile, after in itertools.pairwise(found):
        if after.first == tile.first:
            assert tile.step_to - tile.step_from == shapes[tile.rung].steps_max or after.rung < tile.rung


def test_nothing_to_step_is_no_tile():
    assert tiles([], LADDER) == []


def test_one_hot_sensor_is_a_scan():
    assert tiles([1000], LADDER) == [(0, 0, 1, 0, 256), (0, 0, 1, 256, 512), (0, 0, 1, 512, 768), (0, 0, 1, 768, 1000)]


def test_a_reading_of_each_of_many_sensors_is_one_call():
    assert tiles([1] * 4096, LADDER) == [(7, 0, 4096, 0, 1)]


def test_more_sensors_than_the_widest_rung_are_cut_into_blocks():
    assert tiles([1] * 5000, LADDER) == [(7, 0, 4096, 0, 1), (5, 4096, 5000, 0, 1)]


def test_a_hot_sensor_beside_many_costs_one_call_more_for_its_rest():
    assert tiles([200] + [1] * 4000, LADDER) == [(7, 0, 4001, 0, 1), (0, 0, 1, 1, 200)]


def test_a_zipf_batch_costs_about_one_call_a_rung():
    zipf = [max(1, round(512 / rank)) for rank in range(1, 1025)]
    assert [tile.rung for tile in tiles(zipf, LADDER)] == [5, 4, 3, 2, 1, 0, 0]


# -- rows, as they move -------------------------------------------------------------------------------------


def rows_of(*numbers: int) -> Rows:
    """Rows that tell from which number they were made in every column."""
    rows = Rows.zeros(len(numbers), W)
    for i, n in enumerate(numbers):
        rows.state[i] = [n, -n]
        rows.applied[i], rows.steps[i], rows.event_ms[i], rows.incomplete[i] = n, 10 * n, 100 * n, n % 2
    return rows


def bits(rows: Rows) -> list[tuple[object, ...]]:
    columns = (rows.state.view(np.uint32), rows.applied, rows.steps, rows.event_ms, rows.incomplete)
    return [tuple(column[i].tolist() for column in columns) for i in range(len(rows))]


def random_bits(n: int, seed: int = 1) -> Rows:
    """Any float32 there is, so NaN with every payload too."""
    rows, rng = Rows.zeros(n, W), np.random.default_rng(seed)
    rows.state = rng.integers(0, 2**32, (n, W), np.uint32).view(np.float32)
    rows.state[0] = np.array([0x7F80_0001, 0xFFC1_2345], np.uint32).view(np.float32)  # a signalling NaN, and one with a payload
    rows.applied, rows.steps, rows.event_ms = (rng.integers(-(2**63), 2**63 - 1, n) for _ in range(3))
    rows.incomplete = rng.random(n) < 0.5
    return rows


# -- parking, in memory and on a disk -----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def parking(request, tmp_path):
    return Parking(W, StateFile(tmp_path) if request.param == "disk" else None)


def test_parking_gives_rows_back_bit_for_bit_across_pieces(parking):
    rows = random_bits(PIECE_ROWS + 100)
    places = parking.add(rows)
    assert bits(parking.read(places)) == bits(rows)


def test_parking_reads_places_in_the_order_asked(parking):
    places = parking.add(rows_of(1, 2, 3))
    assert parking.read(places[[2, 0]]).applied.tolist() == [3, 1]


def test_what_parking_gives_back_is_a_copy(parking):
    places = parking.add(rows_of(1))
    parking.read(places).state[:] = 9
    assert bits(parking.read(places)) == bits(rows_of(1))


def test_parking_grows_by_whole_pieces_and_only_when_it_must(parking):
    assert len(set(parking.add(Rows.zeros(PIECE_ROWS, W)).tolist())) == PIECE_ROWS
    (place,) = parking.add(rows_of(7)).tolist()
    assert place == PIECE_ROWS
    assert len(parking) == PIECE_ROWS + 1


def test_places_given_up_are_taken_again_before_parking_grows(parking):
    places = parking.add(Rows.zeros(PIECE_ROWS, W))
    parking.free(places[[5, 77]])
    assert len(parking) == PIECE_ROWS - 2
    assert sorted(parking.add(rows_of(1, 2)).tolist()) == sorted(places[[5, 77]].tolist())


def test_a_place_given_up_spoils_no_other(parking):
    places = parking.add(rows_of(1, 2, 3))
    parking.free(places[[1]])
    parking.add(rows_of(4))
    assert parking.read(places[[0, 2]]).applied.tolist() == [1, 3]


def test_nothing_may_be_parked_read_and_given_up(parking):
    none = np.zeros(0, np.int64)
    assert parking.add(Rows.zeros(0, W)).tolist() == []
    assert len(parking.read(none)) == 0
    parking.free(none)
    assert len(parking) == 0


moves = st.lists(
    st.tuples(st.sampled_from(["add", "free", "mark", "read"]), st.integers(1, 9), st.randoms(use_true_random=False)), max_size=25
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(moves=moves)
def test_whatever_is_parked_read_and_given_up_a_disk_is_as_memory(moves):
    with tempfile.TemporaryDirectory() as folder:
        both, held, made = (Parking(W), Parking(W, StateFile(Path(folder)))), list[int](), 0
        for move, count, rng in moves:
            if move == "add":
                places = [parking.add(rows_of(*range(made, made + count))).tolist() for parking in both]
                assert places[0] == places[1]
                held, made = held + places[0], made + count
                continue
            some = np.array(rng.sample(held, min(count, len(held))), np.int64)
            for parking in both:
                if move == "free":
                    parking.free(some)
                elif move == "mark":
                    parking.mark_saved(some, made)
            if move == "free":
                held = [place for place in held if place not in some]
            at = np.array(rng.sample(held, len(held)), np.int64)
            memory, disk = (parking.read(at) for parking in both)
            assert bits(memory) == bits(disk)
            assert memory.saved_in.tolist() == disk.saved_in.tolist()
            assert [t.tolist() for t in both[0].times(at)] == [t.tolist() for t in both[1].times(at)]
            assert len(both[0]) == len(both[1]) == len(held)


def test_a_disk_holds_the_states_and_leaves_no_file_behind(tmp_path):
    parking = Parking(W, StateFile(tmp_path))
    parking.add(random_bits(PIECE_ROWS))
    assert sum(piece.state.nbytes for piece in parking._pieces) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["missing", "file"])
def test_a_folder_that_cannot_be_written_to_is_told_at_once(tmp_path, what):
    folder = tmp_path / what
    if what == "file":
        folder.write_text("")
    with pytest.raises(ConfigurationError, match=rf"rows cannot be parked in \S+/{what} \(.*\).*parking.path"):
        StateFile(folder)


def test_a_full_disk_is_told_and_nothing_of_the_table_is_lost(tmp_path):
    """A limit of the process stands for the disk's: the system refuses the write in the same place."""
    table = Table(4, W, Parking(W, StateFile(tmp_path)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * W, before[1]))  # two states
    try:
        put(table, [b"a", b"b", b"c", b"d"], rows_of(1, 2, 3, 4))
        put(table, [b"e", b"f"], rows_of(5, 6))
        with pytest.raises(SlotstreamError, match=r"cannot write a parked row in .* \(File too large\)(.|\n)*parking.path"):
            put(table, [b"g"], rows_of(7))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    keys, rows = table.copy(0)
    assert dict(zip(keys, rows.applied.tolist(), strict=True)) == {b"a": 1, b"b": 2, b"c": 3, b"d": 4, b"e": 5, b"f": 6}
    put(table, [b"g"], rows_of(7))  # there is room again
    assert table.sensors(0) == 7


# -- the table ------------------------------------------------------------------------------------------------


def put(table: Table, keys: list[bytes], rows: Rows, partition: int = 0) -> None:
    """One turn of a batch: locate, then write."""
    sensors = [(partition, key) for key in keys]
    at = table.locate([partition] * len(keys), keys)
    table.write(sensors, at, table.generations(at), rows)


def seated(table: Table, partition: int = 0) -> set[bytes]:
    keys = table.copy(partition)[0]
    at = table.locate([partition] * len(keys), keys)
    return {key for key, location in zip(keys, at.tolist(), strict=True) if 0 <= location < table.slots}


def test_an_unknown_sensor_is_absent_and_reads_as_zeros():
    table = Table(2, W)
    at = table.locate([0], [b"a"])
    assert at.tolist() == [ABSENT]
    assert bits(table.read(at)) == bits(Rows.zeros(1, W))


def test_the_same_key_in_two_partitions_is_two_sensors():
    table = Table(4, W)
    put(table, [b"a"], rows_of(1), partition=0)
    put(table, [b"a"], rows_of(2), partition=1)
    assert [table.copy(p)[1].applied.tolist() for p in (0, 1)] == [[1], [2]]


def test_of_many_slots_several_are_freed_at_once_and_never_the_turns_own():
    table, n = Table(640, W), 640
    put(table, [b"%d" % i for i in range(n)], rows_of(*range(n)))
    put(table, [b"%d" % i for i in range(5, n)], rows_of(*range(5, n)))
    put(table, [b"new"], rows_of(n))
    assert (table.evictions, table.resident) == (10, 631)
    assert {b"%d" % i for i in range(5)} | {b"new"} <= {b"new"} | (set(table.copy(0)[0]) - seated(table))
    put(table, [b"%d" % i for i in range(n - 1)], rows_of(*range(n - 1)))  # all but one: the turn's own stay
    assert {b"%d" % i for i in range(n - 1)} <= seated(table)


def test_the_least_recently_written_are_parked_first():
    table = Table(3, W)
    for i, key in enumerate([b"a", b"b", b"c"]):
        put(table, [key], rows_of(i))
    put(table, [b"a"], rows_of(9))
    put(table, [b"d"], rows_of(3))
    assert seated(table) == {b"a", b"c", b"d"}
    put(table, [b"e"], rows_of(4))
    assert seated(table) == {b"a", b"d", b"e"}
    assert table.evictions == 2


def test_a_sensor_that_was_parked_comes_back_with_its_bits():
    table, rows = Table(1, W), random_bits(2)
    put(table, [b"a"], rows.take(slice(0, 1)))
    put(table, [b"b"], rows.take(slice(1, 2)))
    at = table.locate([0, 0], [b"a", b"b"])
    assert (at >= table.slots).tolist() == [True, False]
    assert bits(table.read(at)) == bits(rows)


def test_a_resident_sensors_slot_stays_the_same():
    table = Table(2, W)
    put(table, [b"a"], rows_of(1))
    before = table.locate([0], [b"a"]).tolist()
    for i, key in enumerate([b"b", b"c", b"d"]):
        put(table, [b"a", key], rows_of(i, i))
    assert table.locate([0], [b"a"]).tolist() == before


def test_seating_again_gives_the_parking_place_up():
    table = Table(1, W)
    for turn in range(50):
        put(table, [b"a" if turn % 2 else b"b"], rows_of(turn))
    assert (table.resident, len(table.parking)) == (1, 1)


def test_a_slot_that_is_free_is_used_before_anyone_is_parked():
    table = Table(2, W)
    put(table, [b"a", b"b"], rows_of(1, 2))
    table.forget([(0, b"a")])
    put(table, [b"c"], rows_of(3))
    assert (seated(table), table.evictions, len(table.parking)) == ({b"b", b"c"}, 0, 0)


def test_more_sensors_at_once_than_slots_are_refused():
    table = Table(2, W)
    with pytest.raises(ValueError, match="3 sensors need a slot"):
        put(table, [b"a", b"b", b"c"], rows_of(1, 2, 3))


def test_a_slot_that_changed_hands_has_another_generation():
    table = Table(1, W)
    put(table, [b"a"], rows_of(1))
    at = table.locate([0], [b"a"])
    before = table.generations(at)
    put(table, [b"b"], rows_of(2))
    assert table.generations(at).tolist() != before.tolist()


def test_loading_takes_free_slots_and_parks_the_rest():
    table = Table(3, W)
    put(table, [b"x"], rows_of(9), partition=1)
    keys, rows = [b"%d" % i for i in range(5)], random_bits(5)
    table.load(0, keys, rows)
    assert (table.resident, len(table.parking), table.evictions) == (3, 3, 0)
    assert bits(table.read(table.locate([0] * 5, keys))) == bits(rows)
    assert table.copy(1)[1].applied.tolist() == [9]


def test_loaded_sensors_are_parked_before_those_in_use():
    table = Table(2, W)
    put(table, [b"used"], rows_of(1))
    table.load(0, [b"loaded"], rows_of(2))
    put(table, [b"new"], rows_of(3))
    assert seated(table) == {b"used", b"new"}


def test_dropping_a_partition_frees_its_slots_and_places():
    table = Table(2, W)
    table.load(0, [b"a", b"b", b"c"], rows_of(1, 2, 3))
    put(table, [b"x"], rows_of(4), partition=1)
    table.drop(0)
    assert (table.resident, len(table.parking), table.sensors(0), table.sensors(1)) == (1, 0, 0, 1)
    assert table.copy(1)[1].applied.tolist() == [4]


def test_dropping_an_unknown_partition_does_nothing():
    table = Table(1, W)
    table.drop(5)
    assert table.resident == 0


def test_a_copy_does_not_change_with_the_table():
    table = Table(1, W)
    table.load(0, [b"a", b"b"], rows_of(1, 2))
    keys, rows = table.copy(0)
    put(table, [b"a"], rows_of(8))
    put(table, [b"b"], rows_of(9))
    assert (keys, bits(rows)) == ([b"a", b"b"], bits(rows_of(1, 2)))


def test_restoring_reaches_sensors_in_slots_parked_and_gone():
    table = Table(1, W)
    table.load(0, [b"slot", b"parked", b"gone"], rows_of(1, 2, 3))
    table.forget([(0, b"gone")])
    table.restore([(0, b"gone"), (0, b"slot"), (0, b"parked")], rows_of(6, 4, 5))
    keys, rows = table.copy(0)
    assert dict(zip(keys, rows.applied.tolist(), strict=True)) == {b"slot": 4, b"parked": 5, b"gone": 6}
    assert (table.resident, len(table.parking)) == (1, 2)


keys = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), unique=True, max_size=3)
action = st.tuples(st.sampled_from(["put", "put", "put", "forget", "drop", "move", "keep", "restore"]), st.integers(0, 1), keys)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(actions=st.lists(action, max_size=30), slots=st.integers(3, 7))
def test_any_interleaving_of_turns_moves_and_restores_equals_a_dict(actions, slots):
    """move: a partition is copied, dropped and loaded. keep and restore: rows are read, and put back by sensor later."""
    table, rows, number, kept = Table(slots, W), {}, 0, {}
    for what, partition, names in actions:
        sensors = [(partition, name) for name in names]
        if what == "put":
            made = range(number + 1, number + 1 + len(names))
            number += len(names)
            put(table, names, rows_of(*made), partition)
            rows.update(zip(sensors, made, strict=True))
        elif what == "forget":
            table.forget(sensors)
            rows = {sensor: n for sensor, n in rows.items() if sensor not in sensors}
        elif what == "drop":
            table.drop(partition)
            rows = {sensor: n for sensor, n in rows.items() if sensor[0] != partition}
        elif what == "move":
            held = table.copy(partition)
            table.drop(partition)
            table.load(partition, *held)
        elif what == "keep":
            kept = {sensor: rows[sensor] for sensor in sensors if sensor in rows}
        else:
            table.restore(list(kept), rows_of(*kept.values()))
            rows.update(kept)
        found = {(p, key): row for p in (0, 1) for key, row in zip(table.copy(p)[0], bits(table.copy(p)[1]), strict=True)}
        assert found == {sensor: bits(rows_of(n))[0] for sensor, n in rows.items()}
        assert table.resident + len(table.parking) == len(rows), "no slot and no place is lost or held twice"
        assert table.resident <= slots
