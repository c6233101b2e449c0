"""What an operator meets: refusals before the start, `init` and `check`, probes and figures of a service that runs."""

import json
import re
import signal

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from harness import L, Service, Topics, answers_due, readings, save_model
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_for

from processor import cli, logs
from processor.kafka import admin
from processor.metrics import CATALOGUE, PREFIX
from processor.records import ERRORS
from processor.testbed.embedded_kafka import free_port


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


@pytest.fixture
def command(kafka, unique, model, tmp_path, monkeypatch, capsys):
    """Runs a command in this process, for settings whose topics have names of their own; gives exit code, output and errors."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    name = unique("operate")

    def run(word: str, *options: str, bootstrap: str = kafka.bootstrap, model=model):
        named = [f"--input.topic={name}", f"--output.topic={name}.out", f"--model.path={model}", "--http.port=0", "--slots=8"]
        # The last word counts, so an option may stand against one of these.
        code = cli.main([word, f"--kafka=bootstrap.servers={bootstrap}", *named, *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    run.topic = name
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


# -- refused before the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "code"), [("run", 1), ("init", 1), ("check", 1)])
def test_without_a_broker_every_command_fails_and_names_the_address(command, monkeypatch, word, code):
    monkeypatch.setattr(admin, "BROKER_TIMEOUT_S", 1.0)
    nowhere = f"127.0.0.1:{free_port()}"
    ended, out, err = command(word, bootstrap=nowhere)
    assert ended == code
    assert f"nothing listens at {nowhere}" in out + err
    assert "start the broker, or correct bootstrap.servers" in out + err


def test_missing_topics_are_named_and_init_makes_them_once(command, kafka):
    code, _, err = command("run")
    topics = [command.topic, f"{command.topic}.out", f"{command.topic}.dead-letter", f"slotstream.{command.topic}.out.checkpoints"]
    assert code == 2
    assert all(topic in err for topic in topics)
    assert "slotstream init" in err

    code, out, _ = command("check")
    assert code == 1
    assert all(f"there is no topic {topic} " in out for topic in topics)
    assert "slotstream init" in out
    assert "the broker takes no transaction" not in out, "that a topic is missing says nothing of transactions"

    code, out, _ = command("init", "--partitions=3")
    assert (code, out.splitlines()) == (0, [f"created {topic} with 3 partitions" for topic in topics])
    code, out, _ = command("init", "--partitions=5")
    assert (code, out.splitlines()) == (0, [f"{topic} is there, with 3 partitions" for topic in topics])

    code, out, _ = command("check")
    assert code == 0, out
    assert "BAD" not in out
    assert " warn " not in out

    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    change = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    for future in client.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topics[0], incremental_configs=[change])]).values():
        future.result(30)
    code, out, _ = command("check")
    assert (code, out.count(" warn "), out.count("BAD")) == (0, 1, 0)
    assert f"{topics[0]} keeps readings for 60 s" in out

    client.delete_topics([topics[2]])[topics[2]].result(30)
    wait_for(lambda: topics[2] not in client.list_topics().topics, "the topic gone")
    code, out, _ = command("check")
    assert code == 1
    assert out.count("BAD") == 1
    assert f"there is no topic {topics[2]} " in out


def test_a_model_that_cannot_be_served_is_refused_by_the_name_of_its_layer(command, tmp_path):
    refused = save_model(tmp_path / "refused.keras", L.Bidirectional(L.LSTM(4), name="both_ways"), L.Dense(3))
    command("init")
    code, _, err = command("run", model=refused)
    assert code == 2
    assert "both_ways" in err
    assert "To do:" in err
    code, out, _ = command("check", model=refused)
    assert code == 1
    assert "both_ways" in out


def test_a_folder_in_which_nothing_can_be_parked_ends_the_start_and_is_found_by_check(command, tmp_path):
    folder = tmp_path / "missing"
    command("init")
    code, _, err = command("run", f"--parking.path={folder}")
    assert code == 2
    assert f"rows cannot be parked in {folder} (" in err
    assert "parking.path" in err
    code, out, _ = command("check", f"--parking.path={folder}")
    assert code == 1
    assert out.count("BAD") == 1


def test_a_residual_needs_as_many_outputs_as_features(command, tmp_path):
    narrow = save_model(tmp_path / "narrow.keras", L.LSTM(4), L.Dense(1))
    command("init")
    code, _, err = command("run", "--output.residual=true", model=narrow)
    assert code == 2
    assert "3 features" in err
    assert "1 outputs" in err
    assert "output.residual: [0, 3]), or set it to false" in err


def test_a_checkpoint_topic_that_would_lose_states_or_cannot_hold_them_is_refused(command, kafka, tmp_path):
    command("init", "--partitions=2")
    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    made = [
        NewTopic(f"{command.topic}.deletes", 2, 1),
        NewTopic(f"{command.topic}.narrow", 3, 1, config={"cleanup.policy": "compact"}),
        NewTopic(f"{command.topic}.small", 2, 1, config={"cleanup.policy": "compact", "max.message.bytes": "1100"}),
    ]
    for future in client.create_topics(made).values():
        future.result(30)
    for topic, says in ((made[0], "cleanup.policy of"), (made[1], "has 3 partitions"), (made[2], "a sensor's row may take")):
        code, _, err = command("run", f"--checkpoint.topic={topic.topic}")
        assert (code, says in err, "To do:" in err) == (2, True, True), err
        code, out, _ = command("check", f"--checkpoint.topic={topic.topic}")
        assert (code, says in out) == (1, True), out


@pytest.mark.failure("an output that its topic would refuse")
def test_an_output_that_its_topic_may_not_take_is_refused(command, tmp_path):
    each_step = save_model(tmp_path / "each.keras", L.LSTM(4, return_sequences=True), L.Dense(3))
    command("init")
    code, _, err = command("run", "--input.record_steps_max=100000", model=each_step)
    assert code == 2
    assert re.search(r"an output may take [\d,]+ bytes, and \S+ takes records up to [\d,]+", err)
    assert "input.record_steps_max" in err


# -- while it runs ------------------------------------------------------------------------------------------------------------


# What rules and dashboard ask for of the client library's figures.
OF_PROCESS = {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def samples(service: Service) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(service.get("/metrics")[1])
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_probes_figures_and_banner_of_a_service_that_starts_works_and_idles(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("figures"), partitions=2)
    records = readings(np.random.default_rng(3), 400, features=3, sensors=20, partitions=2)
    service = Service(topics, model, tmp_path, "--slots=64", "--dead_letter.max_ratio=1")
    with service:
        wait_for(lambda: service.get("/healthz"), "the first answer", every_s=0.01)
        assert service.get("/readyz") == (503, "starting\n")
        assert service.get("/healthz") == (200, "alive\n")
        assert service.metric("ready") == 0
        topics.produce(records)
        service.wait_ready()
        assert service.get("/readyz") == (200, "ready\n")
        service.wait_answered(answers_due(records))

        answers = topics.answers()
        bad = [answer for answer in answers.values() if isinstance(answer, str)]
        due = {
            ("predictions_total", ()): len(answers) - len(bad),
            ("readings_total", ()): service_readings(topics, answers),
            **{("dead_letters_total", (("error", error),)): bad.count(error) for error in ERRORS},
            **{("lag_records", (("partition", p),)): 0 for p in "01"},
            **{("partitions", (("state", state),)): 2 * (state == "live") for state in ("restoring", "joining", "live")},
            ("input_partitions", ()): 2,
            ("checkpoint_interval_seconds", ()): 1,
            ("slots", ()): 64,
            ("ready", ()): 1,
            ("transactions_total", (("result", "aborted"),)): 0,
            ("transactions_total", (("result", "fenced"),)): 0,
            ("replayed_readings_total", ()): 0,
            ("evictions_total", ()): 0,
            ("sensors_parked", ()): 0,
        }

        def counted():
            found = samples(service)
            return all(found.get((PREFIX + name, labels)) == value for (name, labels), value in due.items())

        wait_for(counted, lambda: f"{due}, found {samples(service)}")
        found = samples(service)
        passing = {"restore_records_left", "missing_values_total"}  # only while a partition is restored, only where values may be missing
        passing |= {"feature_total", "prediction_total", "feature_expected_ratio", "prediction_expected_ratio"}  # only with drift.profile
        assert {spec.name for spec in CATALOGUE} - passing == {
            spec.name for spec in CATALOGUE for name, _ in found if name in (PREFIX + spec.name, f"{PREFIX}{spec.name}_count")
        }
        sensors = {r.key for r in topics.inputs() if isinstance(answers.get((r.partition, r.offset)), dict)}
        assert 0 < found[PREFIX + "slots_used", ()] <= len(sensors)
        assert found[PREFIX + "end_to_end_seconds_count", ()] >= len(answers) - len(bad)
        assert found[PREFIX + "restore_seconds_count", ()] == 2
        assert {name for name, _ in found} >= OF_PROCESS

        banner = service.events("slotstream")[0]
        wanted = {"features": 3, "outputs": 3, "mode": "carried", "slots": 64, "group": service.settings.group_id, "instance": "one"}
        assert wanted.items() <= banner.items()
        assert banner["fingerprint"] == next(a["model"] for a in answers.values() if isinstance(a, dict))
        assert {"version", "model", "why", "slots_mb", "checkpoints"} <= banner.keys()
        assert service.stop() == 0


def service_readings(topics: Topics, answers) -> int:
    """Readings in the records that were answered with a prediction."""

    values = (json.loads(r.value)["values"] for r in topics.inputs() if isinstance(answers.get((r.partition, r.offset)), dict))
    return sum(len(v) if isinstance(v[0], list) else 1 for v in values)
