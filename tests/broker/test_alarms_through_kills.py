"""Alarms of a service on a real Kafka that is killed with -9 while they rise and clear: each is on its topic once, as the oracle says."""

import time
from collections import defaultdict

import keras
import numpy as np
import pytest
from confluent_kafka.admin import NewTopic
from harness import Service, Topics, answers_due, assert_same, readings, save_model, served
from tiers import few

from processor.verify.oracle_alarms import alarm_as_published

L = keras.layers
RULES = {
    "fixed": ["--alarm.raise={above: 0.9, for: 2}", "--alarm.clear={below: 0.8}", "--alarm.repeat=1s"],
    "learnt": ["--alarm.raise={above: {mad: 1, warmup: 10}}", "--alarm.clear={for: 2}", "--alarm.mean_of=2"],
}


def alarms_of(topics: Topics, name: str):
    """By partition, in their order."""
    found = defaultdict(list)
    for message in sorted(topics.read(name), key=lambda message: message.offset()):
        told = alarm_as_published(message.value())
        assert message.partition() == told["partition"]
        assert message.key().decode() == told["sensor"]
        found[message.partition()].append(told)
    return found


@pytest.mark.failure("kill -9 while alarms rise and clear")
@pytest.mark.parametrize("name", few(RULES, "fixed", long=RULES))
def test_each_alarm_is_published_once_through_kill_9(kafka, unique, tmp_path, name):
    topics = Topics(kafka.bootstrap, unique("alarms"))
    alarms = f"{topics.output}.alarms"
    topics._create(NewTopic(alarms, topics.partitions, 1))
    model = save_model(tmp_path / "model.keras", L.GRU(8), L.Dense(3))
    options = ["--output.residual=true", *RULES[name], "--checkpoint.store=topic", "--dead_letter.max_ratio=1", "--commit_interval=50ms"]
    service = Service(topics, model, tmp_path, *options)
    records = readings(np.random.default_rng(5), 900, features=3, sensors=20, partitions=3)
    thirds = [records[i : i + 300] for i in (0, 300, 600)]
    for third in thirds[:2]:
        with service:
            service.wait_ready()
            before = service.metric("readings_total")
            topics.produce(third)
            while service.metric("readings_total") < before + 100 and service.process.poll() is None:
                time.sleep(0.01)
            service.kill()
    with service:
        topics.produce(thirds[2])
        service.wait_answered(answers_due(records))
        assert service.metric("alarms_total", '{level="alarm",state="raised"}') > 0
        assert service.stop() == 0
    _, reference = served(service, topics)
    want, due = {}, defaultdict(list)
    for record in topics.inputs():
        if (answer := reference.feed(record)) is not None:
            want[record.partition, record.offset] = answer
        for _, told in reference.take_alarms():
            due[record.partition].append(told)
    assert_same(topics.answers(), want)
    assert alarms_of(topics, alarms) == due
    states = [told["state"] for each in due.values() for told in each]
    assert min(states.count("raised"), states.count("cleared")) > 20
