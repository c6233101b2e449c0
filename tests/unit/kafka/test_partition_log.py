"""processor.kafka.partition_log: what is told of a committed offset that does not come."""

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from processor.kafka import partition_log
from processor.kafka.partition_log import HANGING_S, PATIENCE_S, CancelledError, PartitionLog
from processor.settings import Settings


def test_an_offset_that_is_not_stable_for_long_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, asked = [1000.0], []

    def ask(partitions: object, _timeout_s: float) -> list[None]:
        asked.append(partitions)
        now_s[0] += PATIENCE_S + 1
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(partition_log.time, "monotonic", lambda: now_s[0])
    log = PartitionLog(Settings(), 3, lambda: now_s[0] > 1000 + 2 * HANGING_S, ask)
    try:
        with capture_logs() as lines, pytest.raises(CancelledError):
            log.committed()
    finally:
        log.close()
    told = ["find-hanging" in line.get("to_do", "") for line in lines]
    assert told == [(PATIENCE_S + 1) * (i + 1) > HANGING_S for i in range(len(asked))]
    assert {line["partition"] for line in lines} == {3}
