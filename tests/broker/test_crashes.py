"""kill -9 at each point of a commit and of a checkpoint where it leaves something else behind, exactly there."""

import signal
import time
from pathlib import Path

import pytest
from harness import SMALL, L, Service, Stream, Topics, assert_exact, feed_into_open_transaction, save_model
from places import SUPPORT
from waiting import wait_for

DIES_AT = SUPPORT / "dies_at.py"
OFTEN = ("--commit_interval=200ms", "--checkpoint.interval=500ms")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


def dies(point: str, times: int, store: str, row: str, *marks: pytest.MarkDecorator):
    return pytest.param(point, times, store, id=point.replace(" ", "-"), marks=[pytest.mark.failure(row), *marks])


@pytest.mark.parametrize(
    ("point", "times", "store"),
    [
        dies("before anything is published", 2, "topic", "kill -9 before anything is published", pytest.mark.long),
        dies("after publishing", 2, "topic", "kill -9 after publishing, before the commit", pytest.mark.long),
        dies("before the commit", 3, "directory", "kill -9 in the commit", pytest.mark.soak),
        dies("in the commit", 3, "topic", "kill -9 in the commit"),
        dies("after the commit", 2, "directory", "kill -9 after the commit, before a checkpoint", pytest.mark.long),
        dies("in the first commit", 0, "topic", "kill -9 in the first seconds", pytest.mark.long),
        dies("in a checkpoint file", 4, "directory", "kill -9 while a checkpoint is written", pytest.mark.long),
        dies("before a checkpoint file has its name", 4, "directory", "kill -9 while a checkpoint is written", pytest.mark.soak),
        dies("in a round", 1, "topic", "kill -9 in a round of the checkpoint topic", pytest.mark.long),
    ],
)
def test_every_record_is_answered_once_after_kill_9(kafka, unique, tmp_path, model, point, times, store):
    topics = Topics(kafka.bootstrap, unique("dies"), partitions=2)
    stream = Stream(topics, 700)
    service = Service(topics, model, tmp_path, *SMALL, *OFTEN, f"--checkpoint.store={store}")
    stream.feed(200)
    service.program = [str(DIES_AT), point, str(times)]
    with service:

        def dead():
            if stream.left and service.events("partitions assigned"):
                stream.feed(min(stream.left, 5))
            return service.process.poll() is not None

        wait_for(dead, lambda: f"the end:\n{service.said()[-3000:]}", 90, every_s=0.1)
        assert service.process.returncode == -signal.SIGKILL, service.said()[-3000:]
    del service.program
    with service:
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


@pytest.mark.long
@pytest.mark.failure("the loop hangs")
def test_a_loop_that_hangs_is_told_by_its_probe_and_a_restart_goes_on(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("hangs"), partitions=2)
    stream = Stream(topics, 300)
    service = Service(topics, model, tmp_path, *SMALL, *OFTEN, "--checkpoint.store=topic")
    service.program = [str(DIES_AT), "hangs", "1"]
    with service:

        def hangs():
            if stream.left > 100 and service.events("partitions assigned"):
                stream.feed(5)
            answer = service.get("/healthz")
            return answer is not None and answer[0] == 503 and answer[1]

        assert "the loop has not turned for" in wait_for(hangs, "the probe to tell", 90, every_s=0.2)
        service.kill()
    del service.program
    with service:
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


@pytest.mark.long
@pytest.mark.failure("partitions revoked", "kill -9 between giving partitions up and joining again")
def test_what_was_given_up_before_a_kill_finds_an_owner_though_the_group_sees_no_need(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("orphans"), partitions=4)
    stream = Stream(topics, 600)
    a, b = (Service(topics, model, tmp_path, *SMALL, *OFTEN, "--checkpoint.store=topic", instance=name) for name in "ab")
    b.program = [str(DIES_AT), "giving up", "0"]
    with b:
        b.wait_answered(stream.feed(200))
        with a:
            wait_for(lambda: b.process.poll() is not None, lambda: f"b's end:\n{b.said()[-3000:]}", 90, every_s=0.1)
            assert b.process.returncode == -signal.SIGKILL, b.said()[-3000:]
            del b.program
            b.start()
            a.wait_answered(stream.feed())
            told = "partitions have no owner and the group does not notice, rejoining the group"
            assert a.events(told) or b.events(told)
            assert (a.stop(), b.stop()) == (0, 0)
    assert_exact(a, topics)


@pytest.mark.long
@pytest.mark.failure("SIGSTOP, a process of the same name takes its place on another host, SIGCONT")
def test_what_times_out_in_a_process_that_slept_does_not_fence_the_one_that_has_its_name(kafka, unique, tmp_path, model):
    """Its client would ask for a higher epoch with its abort, and the broker would grant that against any open transaction."""
    topics = Topics(kafka.bootstrap, unique("sleeper"), partitions=2)
    stream = Stream(topics, 1500)
    first, second = (Service(topics, model, tmp_path, *SMALL, "--commit_interval=1s", "--checkpoint.store=topic") for _ in range(2))
    first.program = [str(DIES_AT), "sleeps with records in hand", "2"]
    second.log = tmp_path / "second.log"
    second.environment = {"TMPDIR": str(tmp_path)}  # as on another host: the lock of the name is found in another folder
    with first:

        def asleep():
            if stream.left > 1000 and first.events("partitions assigned"):
                stream.feed(5)
            assert first.process.poll() is None, first.said()[-3000:]
            return Path(f"/proc/{first.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        wait_for(asleep, lambda: f"sleep:\n{first.said()[-3000:]}", 90, every_s=0.1)
        asleep_until_s = time.monotonic() + 12  # a transaction may be open for 10 s
        try:
            with second:
                second.wait_answered(stream.feed(200))
                wait_for(lambda: time.monotonic() > asleep_until_s, "the records to be too old")
                feed_into_open_transaction(second, stream, 50)  # and more below, so that one is open at any time
                first.process.send_signal(signal.SIGCONT)

                def ended():
                    stream.feed(min(stream.left, 5))
                    return first.process.poll() is not None

                wait_for(ended, lambda: f"first to end:\n{first.said()[-3000:]}", 60, every_s=0.05)
                assert first.process.returncode == 3, first.said()
                second.wait_answered(stream.feed())
                assert second.stop() == 0, second.said()
        finally:
            if first.process.poll() is None:
                first.process.send_signal(signal.SIGCONT)
    assert_exact(second, topics)
