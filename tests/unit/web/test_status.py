"""processor.web: status, figures, verdicts, samples: what the figures come to, and that nobody who looks disturbs anybody."""

import logging
import threading
from datetime import datetime

import numpy as np
import orjson
import pytest
from watched import Watched

from processor.app.health import PartitionView
from processor.metrics import Metrics
from processor.partitions import State
from processor.records import ERRORS
from processor.settings import load_settings
from processor.web import samples as samples_module
from processor.web.samples import EVERY_S, SAMPLES_MAX, History, Numbers, before, quantile
from processor.web.verdicts import duration

LATENCY = samples_module.BOUNDS["end_to_end_seconds"]


@pytest.fixture
def watched() -> Watched:
    return Watched()


# Is it ready?


def test_while_it_starts_the_step_is_told(watched: Watched) -> None:
    watched.source.start_step, watched.source.served = "compiling the model", None
    assert watched.verdict("ready") == ("wait", "Starting", "It is compiling the model.")
    assert [watched.verdict(name)[:2] for name in ("pace", "time", "state")] == [("wait", "Not yet")] * 3
    assert watched.status.told()["model"] == {"file": "model.keras"}


def test_an_instance_without_a_place_waits_for_the_group_and_one_without_work_stands_by(watched: Watched) -> None:
    watched.source.joined = False
    assert watched.verdict("ready") == ("wait", "Joining", "It waits for the group to give it partitions.")
    watched.source.joined = True
    assert watched.verdict("ready")[:2] == ("good", "Ready")
    assert "stands by" in watched.verdict("ready")[2]


def test_a_restore_tells_what_is_left_and_how_long_it_takes(watched: Watched) -> None:
    watched.own(3, state=State.RESTORING)
    assert watched.verdict("ready")[2] == "3 of 3 partitions wait for the state: looking for the newest checkpoint."
    left = iter(range(10_000, 0, -1000))

    def replay() -> None:
        watched.metrics.set("restore_records_left", next(left), partition=1)

    watched.go_on(5, replay)
    told = watched.status.told()["restore"]
    assert told == {
        "partitions": 3,
        "replaying": 1,
        "records_left": 6000,
        "records_per_second": pytest.approx(500),
        "left_s": pytest.approx(12),
    }
    assert watched.verdict("ready") == (
        "wait",
        "Restoring",
        "3 of 3 partitions wait for the state: 6,000 records to replay, about 12 s left.",
    )


def test_a_backlog_tells_how_long_it_takes(watched: Watched) -> None:
    watched.own(2, caught_up=False, lag=50_000)
    work = watched.work(2000)
    lags = iter(range(50_000, 0, -1000))

    def shrink() -> None:
        work()
        for number, lag in enumerate([next(lags)] * 2):
            watched.metrics.set("lag_records", lag, partition=number)

    watched.go_on(11, shrink)
    assert watched.verdict("ready") == ("wait", "Catching up", "80,000 records wait, about 80 s left.")
    assert watched.verdict("pace")[:2] == ("warn", "Catching up")


def test_a_backlog_that_is_not_known_yet_is_told_as_such(watched: Watched) -> None:
    watched.own(1, caught_up=False)
    watched.metrics.forget("lag_records", partition=0)
    assert watched.verdict("ready") == ("wait", "Catching up", "It begins to read what waits.")
    assert watched.verdict("pace")[:2] == ("wait", "Not yet")


def test_a_loop_that_hangs_is_bad_whatever_else_is_said(watched: Watched) -> None:
    watched.own()
    watched.source.is_alive = False
    level, word, reason = watched.verdict("ready")
    assert (level, word) == ("bad", "Hung")
    assert reason.startswith("The loop has not turned for 61 s.")


def test_a_topic_that_is_gone_is_bad_however_idle_it_looks(watched: Watched) -> None:
    watched.own()
    watched.source.trouble = "waiting for a topic that is gone from the broker: readings (input.topic)"
    said = "Waiting for a topic that is gone from the broker: readings (input.topic)."
    assert watched.verdict("ready") == ("bad", "Waiting", said)
    assert watched.verdict("pace") == ("bad", "Stands still", said)


def test_what_it_waits_for_is_told_before_its_partitions(watched: Watched) -> None:
    watched.own()
    watched.source.trouble = "the broker does not permit User:plant: Write on topic predictions"
    level, word, reason = watched.verdict("ready")
    assert (level, word) == ("bad", "Waiting")
    assert "Write on topic predictions" in reason


def test_ready_counts_its_partitions(watched: Watched) -> None:
    watched.own(1)
    assert watched.verdict("ready") == ("good", "Ready", "Its one partition is restored and caught up.")
    watched.own(1)
    assert watched.verdict("ready")[2] == "All 2 partitions are restored and caught up."


# Can the records be used?


def test_a_share_of_dead_letters_above_1_percent_is_no_good_verdict(watched: Watched) -> None:
    watched.own(2)
    watched.metrics.add("dead_letters_total", 20, error="bad_schema")
    watched.go_on(3)
    assert watched.verdict("pace")[:2] == ("bad", "Refusing records")
    assert "20 of 20 records" in watched.verdict("pace")[2]
    assert "most often for bad_schema" in watched.verdict("pace")[2]
    watched.go_on(1, watched.work(980))
    assert watched.verdict("pace")[0] == "warn"
    watched.go_on(1, watched.work(1000))
    assert watched.verdict("pace")[0] == "good", "1 %"


# Is it keeping up?


def test_a_lag_of_less_than_its_work_takes_is_none(watched: Watched) -> None:
    watched.own(2, lag=500)
    watched.go_on(10, watched.work(4000))
    told = watched.status.told()["flow"]
    assert (told["readings_per_second"], told["predictions_per_second"], told["lag_records"], told["lag_s"]) == (2000, 2000, 1000, 0.5)
    assert watched.verdict("pace") == (
        "good",
        "Keeping up",
        "2,000 readings/s, 1,000 records behind, 500 ms of work; 99% of the predictions within 100 ms.",
    )


def test_dead_letters_are_answers_too(watched: Watched) -> None:
    watched.own(2, lag=500)
    watched.go_on(10, lambda: watched.metrics.add("dead_letters_total", 2000, error="bad_schema"))
    assert watched.status.told()["flow"]["answered_per_second"] == 1000
    assert watched.verdict("pace")[1] == "Refusing records", "they keep up, and that is not what matters"


@pytest.mark.parametrize(("step", "verdict"), [(500, ("bad", "Falling behind")), (0, ("warn", "Behind")), (-500, ("warn", "Catching up"))])
def test_a_lag_is_judged_by_where_it_goes(watched: Watched, step: int, verdict: tuple[str, str]) -> None:
    watched.own(1, lag=20_000)
    work, lag = watched.work(1000), [20_000]

    def each() -> None:
        work()
        lag[0] += step
        watched.metrics.set("lag_records", lag[0], partition=0)

    watched.go_on(20, each)
    assert watched.verdict("pace")[:2] == verdict


def test_nothing_to_do_is_idle_and_nothing_done_is_stalled(watched: Watched) -> None:
    watched.own(1)
    watched.go_on(10)
    assert watched.verdict("pace")[:2] == ("good", "Idle")
    watched.metrics.set("lag_records", 1, partition=0)
    watched.go_on(1)
    assert watched.verdict("pace") == ("bad", "Stalled", "1 record waits, and none was answered in the last 10 s.")


def test_nothing_to_do_is_not_taken_for_good_while_the_kafka_client_fails(watched: Watched) -> None:
    watched.own(1)
    watched.go_on(10)
    watched.recent.handle(logging.LogRecord("librdkafka", logging.ERROR, "", 0, "all brokers are down", (), None))
    told_s = datetime.fromisoformat(watched.recent.messages()[0]["timestamp"]).timestamp()
    watched.status._unix_s = lambda: told_s + 12
    assert watched.verdict("pace")[:2] == ("warn", "Cut off?")
    assert "an error 12 s ago" in watched.verdict("pace")[2]
    watched.status._unix_s = lambda: told_s + 31
    assert watched.verdict("pace")[:2] == ("good", "Idle")


# Where does the time go, and is the state safe?


def test_shares_of_the_loops_time_are_of_the_time_in_which_it_turned(watched: Watched) -> None:
    watched.go_on(20)  # it compiles
    watched.go_on(20, watched.work(100))
    told = watched.status.told()["time"]
    shares = {row["stage"]: row["ratio"] for row in told["stages"]}
    assert shares == pytest.approx(
        {"consume": 0.5, "decode": 0, "apply": 0.3, "encode": 0, "publish": 0, "commit": 0.15, "checkpoint": 0, "other": 0.05}
    )
    assert told["busy_ratio"] == pytest.approx(0.5)
    assert watched.verdict("time") == ("good", "50% busy", "Most goes into apply (30%) and commit (15%); the rest waits for readings.")


@pytest.mark.parametrize(
    ("age_s", "verdict"), [(0, ("good", "Safe")), (90, ("good", "Safe")), (91, ("warn", "Late")), (301, ("bad", "Overdue"))]
)
def test_the_oldest_checkpoint_decides_whether_the_state_is_safe(watched: Watched, age_s: int, verdict: tuple[str, str]) -> None:
    watched.own(3)
    watched.metrics.set("checkpoint_age_seconds", age_s, partition=2)
    for partition in watched.source.owned[:2]:
        watched.metrics.set("checkpoint_age_seconds", 0, partition=partition.number)
    assert watched.verdict("state")[:2] == verdict


def test_what_a_restart_replays_lies_after_the_checkpoint_or_else_the_origin(watched: Watched) -> None:
    one, two = watched.own(2)
    one.checkpoint_position = 5000
    told = watched.status.told()
    assert [row["replay_records"] for row in told["partitions"]] == [100, 5000]
    assert told["state"]["replay_records"] == 5100
    two.checkpoint_position = two.committed.offset
    assert watched.verdict("state")[2] == "The oldest checkpoint is 13 s old; a restart replays 100 records."


# The rest.


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_not_known_yet_it_answers(seed: int) -> None:
    """A page that gets no answer says that the service is gone."""
    random, watched = np.random.default_rng(seed), Watched()
    for step in range(25):
        for number in range(int(random.integers(0, 3))):
            state, caught_up = State(str(random.choice(["restoring", "joining", "live"]))), bool(random.integers(2))
            partition = watched.own(1, state=state, caught_up=caught_up)[-1]
            partition.number = number
            if random.random() < 0.5:
                partition.beginning = None
        for name in ("lag_records", "checkpoint_age_seconds", "restore_records_left"):
            if random.random() < 0.5:
                watched.metrics.set(name, int(random.integers(0, 10**9)), partition=int(random.integers(0, 3)))
            else:
                watched.metrics.forget(name, partition=int(random.integers(0, 3)))
        if random.random() < 0.3:
            watched.source.owned.clear()
        watched.source.joined, watched.source.is_alive = bool(random.random() < 0.9), bool(random.random() < 0.9)
        watched.source.start_step = "loading the model" if random.random() < 0.1 else None
        watched.go_on(int(random.integers(0, 4)), watched.work(int(random.integers(1, 50))) if step % 2 else lambda: None)
        watched.at_s += 1
        told = orjson.loads(watched.status.json())
        assert {verdict["level"] for verdict in told["verdicts"].values()} <= {"good", "wait", "warn", "bad"}
        assert all(verdict["word"] and verdict["reason"].endswith(".") for verdict in told["verdicts"].values())


def test_a_partition_tells_its_state(watched: Watched) -> None:
    owned = watched.own(4)
    owned[0].state, owned[1].state, owned[2].caught_up = State.RESTORING, State.JOINING, False
    assert [row["state"] for row in watched.status.told()["partitions"]] == ["restoring", "joining", "catching up", "live"]


def test_dead_letters_are_told_by_reason_the_most_frequent_first(watched: Watched) -> None:
    watched.metrics.add("dead_letters_total", 3, error="late")
    watched.history._samples.clear()
    watched.history.take()
    watched.metrics.add("dead_letters_total", 2, error="no_key")
    watched.metrics.add("dead_letters_total", 1, error="late")
    told = watched.status.told()["dead_letters"]
    assert told[:2] == [{"reason": "late", "total": 4, "recent": 1}, {"reason": "no_key", "total": 2, "recent": 2}]
    assert {row["reason"] for row in told} == set(ERRORS)


def test_sensors_that_keep_changing_places_are_told(watched: Watched) -> None:
    watched.go_on(5, watched.work(100))
    assert watched.status.told()["slots"]["thrash"] is False
    work = watched.work(100)

    def each() -> None:
        work()
        watched.metrics.add("evictions_total", 50)

    watched.go_on(20, each)
    told = watched.status.told()["slots"]
    assert (told["thrash"], told["evictions_per_second"]) == (True, pytest.approx(25, rel=0.4))


def test_the_last_messages_are_told(watched: Watched) -> None:
    watched.recent.handle(logging.LogRecord("librdkafka", logging.ERROR, "", 0, "broker %s", ("gone",), None))
    (told,) = watched.status.told()["messages"]
    assert (told["level"], told["event"], told["logger"], told["times"]) == ("error", "broker gone", "librdkafka", 1)


def test_nothing_of_kafkas_settings_is_told_and_of_the_model_no_path() -> None:
    secrets = {"SLOTSTREAM_KAFKA__SASL_PASSWORD": "swordfish", "SLOTSTREAM_KAFKA__SASL_USERNAME": "admiral"}
    options = ["--kafka", "bootstrap.servers=broker:9092", "--model.path=/secret/folder/model.keras", "--checkpoint.store=directory"]
    watched = Watched(load_settings(None, options, secrets))
    told = watched.status.json().decode()
    assert [word for word in ("swordfish", "admiral", "broker:9092", "/secret", "checkpoints/") if word in told] == []
    assert '"model.keras"' in told


def test_a_sensor_is_never_named(watched: Watched) -> None:
    """Figures are of partitions: however many sensors there are, the answer is as long."""
    watched.own(256, lag=7)
    watched.go_on(SAMPLES_MAX, watched.work(100))
    assert len(watched.status.json()) < 100_000


def test_history_goes_back_ten_minutes_and_no_further(watched: Watched) -> None:
    watched.own(1, lag=5)
    watched.go_on(SAMPLES_MAX + 50, watched.work(200))
    told = watched.status.told()["history"]
    assert {len(values) for values in told.values()} == {SAMPLES_MAX - 1}
    assert told["at"][-1] - told["at"][0] == pytest.approx(600 - EVERY_S)
    assert (told["readings_per_second"][7], told["lag_records"][7]) == (100, 5)
    assert 0.075 < told["latency_p50_s"][7] <= told["latency_p99_s"][7] <= 0.1


def test_points_without_a_prediction_have_no_latency_and_those_before_a_partition_no_lag(watched: Watched) -> None:
    watched.go_on(10)
    told = watched.status.told()["history"]
    assert set(told["latency_p99_s"]) == set(told["lag_records"]) == {None}
    assert set(told["readings_per_second"]) == {0}


def test_however_many_ask_it_is_worked_out_once_a_second(watched: Watched) -> None:
    first = watched.status.json()
    assert watched.status.json() is first
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(watched.status.json())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer is first for answer in answers)
    watched.at_s += 1
    assert orjson.loads(watched.status.json())["at"] == orjson.loads(first)["at"] + 1


def test_samples_are_taken_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "EVERY_S", 0.01)
    history, three = History(Metrics()), threading.Event()
    take = history.take

    def counted() -> None:
        take()
        if len(history.samples()) == 3:
            three.set()

    monkeypatch.setattr(history, "take", counted)
    before_it = threading.active_count()
    with history.taking():
        assert len(history.samples()) >= 1  # at once: the page never finds none
        assert three.wait(30)
    assert threading.active_count() == before_it


def test_numbers_are_those_that_metrics_serves() -> None:
    metrics = Metrics()
    metrics.add("readings_total", 7)
    metrics.set("lag_records", 3, partition=12)
    metrics.observe("end_to_end_seconds", np.array([0.005, 0.01, 0.02, 5000.0]))
    numbers = Numbers(metrics)
    assert (numbers.value("readings_total"), numbers.series("lag_records")) == (7, {"12": 3})
    assert (numbers.known("lag_records", "12"), numbers.known("lag_records", "13")) == (3, None)
    counts = numbers.counts("end_to_end_seconds")
    assert (len(counts), counts[0], counts[1], counts[-1], counts.sum()) == (len(LATENCY) + 1, 2, 1, 1, 4)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(share: float) -> None:
    values = np.sort(np.random.default_rng(3).lognormal(-2, 1, 5000))
    counts = np.bincount(np.searchsorted(LATENCY, values), minlength=len(LATENCY) + 1).astype(float)
    exact = values[max(0, int(np.ceil(share * len(values))) - 1)]
    found = quantile(counts, LATENCY, share)
    assert found is not None
    assert np.searchsorted(LATENCY, found) == np.searchsorted(LATENCY, exact)


def test_a_quantile_of_nothing_is_none_and_beyond_the_last_bound_that_bound() -> None:
    assert quantile(np.zeros(len(LATENCY) + 1), LATENCY, 0.5) is None
    beyond = np.zeros(len(LATENCY) + 1)
    beyond[-1] = 4
    assert quantile(beyond, LATENCY, 0.5) == LATENCY[-1]


def test_the_sample_before_is_the_newest_that_is_old_enough(watched: Watched) -> None:
    watched.go_on(20)
    samples = watched.history.samples()
    assert samples[-1].at_s - before(samples, 10).at_s == 10
    assert before(samples, 3600) is samples[0]


def test_durations_are_short() -> None:
    seconds = [0, 0.0123, 0.9996, 3.42, 9.96, 99, 100, 3599, 7830, 200_000]
    assert [duration(s) for s in seconds] == [
        "0 ms",
        "12 ms",
        "1 s",
        "3.4 s",
        "10 s",
        "99 s",
        "2 min",
        "1 h 0 min",
        "2 h 10 min",
        "2 d 7 h",
    ]


def test_a_view_stays_as_it_was_while_the_loop_goes_on(watched: Watched) -> None:
    partition, *_ = watched.own(1)
    view = watched.source.view
    partition.checkpointed(5000, 0.0)
    partition.drop()
    assert view.partitions == (PartitionView(0, "live", True, 5100, 5000),)
    assert watched.source.view.partitions == (PartitionView(0, "dropped", False, None, None),)
