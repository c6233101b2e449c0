"""The latest readings: only what is committed, in bounded memory, and those of a watched sensor for longer."""

import numpy as np

from processor.loop.recent_readings import READINGS_MAX, WATCHED_MAX, WATCHED_S, RecentReadings
from processor.records import Applied, Batch


class Clock:
    s = 1000.0

    def __call__(self) -> float:
        return self.s


def batch_of(*keys: bytes, first: int = 0, partition: int = 0, steps: list[int] | None = None) -> tuple[Batch, Applied]:
    """One record a key; its reading and its prediction say its offset."""
    n, per = len(keys), np.array(steps or [1] * len(keys))
    offsets, total = np.arange(first, first + n), int(per.sum())
    x = np.repeat(offsets, per).astype(np.float32)[:, None]
    flags = [np.zeros(n, np.bool_) for _ in range(4)]
    batch = Batch([partition] * n, list(keys), offsets, offsets * 10, offsets * 10, per, flags[0], flags[1], x)
    applied = Applied(
        y=-x, last=np.cumsum(per) - 1, steps=per.cumsum(), residual=offsets.astype(np.float32), warming=flags[2], filling=flags[3],
        finite=np.ones(n, np.bool_), late=np.zeros(n, np.bool_), reset_by=np.zeros(n, np.int8),
    )  # fmt: skip
    assert len(applied.y) == total
    return batch, applied


def offsets(recent: RecentReadings, key: bytes, partition: int = 0) -> list[int]:
    return [int(reading.offset) for reading in recent.readings(partition, key)]


def commit(recent: RecentReadings, *batches: tuple[Batch, Applied]) -> None:
    for batch in batches:
        recent.applied(*batch)
    recent.commit()


def test_what_was_committed_is_shown_and_what_was_rolled_back_is_not() -> None:
    recent = RecentReadings()
    recent.applied(*batch_of(b"a", b"b", b"a"))
    assert recent.logged() == []
    recent.commit()
    recent.applied(*batch_of(b"a", first=3))
    recent.abort()
    commit(recent, batch_of(b"a", first=3))
    assert offsets(recent, b"a") == [0, 2, 3]
    (newest,) = recent.readings(0, b"a")[-1:]
    assert (newest.event_ms, newest.x.tolist(), newest.y.tolist(), newest.residual) == (30, [3.0], [-3.0], 3.0)
    assert offsets(recent, b"a", partition=1) == []


def test_a_record_shows_its_last_reading_and_one_that_was_left_out_shows_none() -> None:
    recent = RecentReadings()
    batch, applied = batch_of(b"a", b"a", b"a", steps=[3, 0, 2])
    applied.late[2] = True
    commit(recent, (batch, applied))
    assert [(int(r.offset), r.x.tolist(), r.y.tolist()) for r in recent.readings(0, b"a")] == [(0, [0.0], [-0.0])]


def test_memory_is_bounded_and_the_oldest_readings_go_first() -> None:
    recent = RecentReadings(bytes_max=1_000_000)
    for first in range(0, 200_000, 5_000):
        commit(recent, batch_of(*[b"%d" % (i % 7) for i in range(5_000)], first=first))
        assert sum(piece.size_bytes for piece in recent.logged()) <= 1_000_000
    kept = np.concatenate([piece.offset for piece in recent.logged()])
    assert kept[-1] == 199_999
    assert (np.diff(kept) == 1).all()
    assert 5_000 <= len(kept) < 200_000


def test_small_commits_are_kept_together() -> None:
    recent = RecentReadings()
    for first in range(3_000):
        commit(recent, batch_of(b"a", first=first))
    assert len(recent.logged()) <= 4
    assert offsets(recent, b"a") == list(range(2_500, 3_000))


def test_a_watched_sensor_keeps_its_last_readings_though_the_log_forgets_them() -> None:
    clock = Clock()
    recent = RecentReadings(bytes_max=100_000, now_s=clock)
    commit(recent, batch_of(b"rare"))
    assert offsets(recent, b"rare") == [0]
    for first in range(1, 20_001, 1_000):
        commit(recent, batch_of(*[b"other"] * 999, b"rare", first=first))
    assert offsets(recent, b"rare") == [0, *range(1_000, 20_001, 1_000)]
    clock.s += WATCHED_S + 1  # nobody has asked for it
    commit(recent, batch_of(b"other", first=30_000))
    assert len(offsets(recent, b"rare")) < 3


def test_a_bounded_number_of_sensors_is_watched_and_of_each_a_bounded_number_of_readings() -> None:
    recent = RecentReadings(bytes_max=100_000)
    keys = [b"%d" % i for i in range(WATCHED_MAX + 1)]
    commit(recent, batch_of(*keys))
    for key in keys:
        assert len(offsets(recent, key)) == 1
    assert len(recent._watched) == WATCHED_MAX
    for first in range(100, 2_100, 100):
        commit(recent, batch_of(*[keys[-1]] * 100, first=first))
    assert offsets(recent, keys[-1]) == list(range(2_100 - READINGS_MAX, 2_100))


def test_a_partition_that_is_gone_leaves_nothing() -> None:
    recent = RecentReadings()
    commit(recent, batch_of(b"a", b"b"), batch_of(b"a", first=5, partition=1))
    assert offsets(recent, b"a") == [0]
    recent.drop(0)
    assert (offsets(recent, b"a"), offsets(recent, b"a", partition=1)) == ([], [5])
    recent.drop(1)
    assert recent.logged() == []
