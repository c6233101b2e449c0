"""processor.settings: what is read, what wins, and what is refused with which words."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT
from pydantic import ValidationError

from processor.errors import ConfigurationError
from processor.settings import (
    KAFKA_REFUSED,
    Settings,
    addresses,
    config_file,
    format_duration,
    kafka_key,
    keys,
    load_settings,
    parse_duration,
    sections,
)

STEADY = settings(deadline=None, derandomize=True)  # the same examples each time, however busy the machine is
SECRET = "correct-horse-battery"  # must never be seen in anything that is printed


def load(text: str | None = None, *options: str, path: Path | None = None, **environ: str) -> Settings:
    if text is not None:
        assert path is not None
        path.write_text(text)
    return load_settings(path if text is not None else None, options, environ)


def problems(text: str | None = None, *options: str, path: Path | None = None, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, *options, path=path, **environ)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slotstream.yaml"


def value_of(loaded: Settings, key: str) -> Any:
    section, _, name = key.partition(".")
    name = "raise_" if name == "raise" else name
    return getattr(getattr(loaded, section), name) if name else getattr(loaded, section)


# Defaults.


def test_without_any_source_everything_has_its_default() -> None:
    loaded = load()
    assert loaded == Settings()
    assert loaded.kafka_config() == {"bootstrap.servers": "localhost:9092"}
    assert (loaded.input.topic, loaded.output.topic, loaded.dead_letter_topic) == ("readings", "predictions", "readings.dead-letter")
    assert (loaded.commit_interval, loaded.drain_timeout, loaded.batch.linger, loaded.checkpoint.interval) == (0.1, 10.0, 0.005, 30.0)
    assert (loaded.on_missing_state, loaded.on_gap, loaded.on_lost_input) == ("rebuild", "rebuild", "fail")
    assert (loaded.on_model_change, loaded.on_partitions_added) == ("fail", "fail")


def test_every_default_is_itself_allowed() -> None:
    for key in keys():
        if key.name != "kafka":
            assert load(None, f"--{key.name}={key.default}") == Settings()


def test_the_committed_file_holds_every_key_with_its_default() -> None:
    file = ROOT / "config/slotstream.yaml"
    content = yaml.safe_load(file.read_text())
    named = {f"{section}.{name}" for section in sections() for name in content[section]} | (set(content) - set(sections()))
    assert named == {key.name for key in keys()}
    assert load_settings(file, [], {}) == Settings()


def test_derived_names_follow_what_they_derive_from() -> None:
    loaded = load(None, "--output.topic", "out", "--input.topic", "in", "--instance", "a-1")
    assert loaded.group_id == "slotstream.out"
    assert loaded.transactional_id == "slotstream.out.a-1"
    assert loaded.dead_letter_topic == "in.dead-letter"
    assert load(None, "--group", "g").group_id == "g"
    assert load(None, "--dead_letter.topic", "bad").dead_letter_topic == "bad"
    assert load().instance_name


def test_settings_cannot_be_changed() -> None:
    loaded = load()
    with pytest.raises(ValidationError):
        loaded.group = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        loaded.input.topic = "other"  # type: ignore[misc]


# Which source wins.


@STEADY
@given(yaml_value=st.none() | st.integers(1, 99), env=st.none() | st.integers(1, 99), option=st.none() | st.integers(1, 99))
def test_the_command_line_wins_over_the_environment_over_the_file(
    tmp_path_factory: pytest.TempPathFactory, yaml_value: int | None, env: int | None, option: int | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "wins.yaml"
    loaded = load(
        "" if yaml_value is None else f"batch: {{readings_max: {yaml_value}}}",
        *([] if option is None else [f"--batch.readings_max={option}"]),
        path=file,
        **({} if env is None else {"SLOTSTREAM_BATCH__READINGS_MAX": str(env)}),
    )
    assert loaded.batch.readings_max == next(value for value in (option, env, yaml_value, 4096) if value is not None)


def test_sources_are_merged_key_by_key(path: Path) -> None:
    loaded = load("input: {topic: a, start: latest}", "--input.ahead_max", "2h", path=path, SLOTSTREAM_INPUT__TOPIC="b")
    assert (loaded.input.topic, loaded.input.start, loaded.input.ahead_max) == ("b", "latest", 7200.0)


@STEADY
@given(st.permutations(["bootstrap.servers", "bootstrap_servers", "BOOTSTRAP_SERVERS", "bootstrap_Servers"]))
def test_kafka_spellings_are_one_key_in_every_source(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "spelled.yaml"
    in_file, in_env, option, _ = names
    env = {f"SLOTSTREAM_KAFKA__{in_env}": "env:1"}
    assert load(f"kafka: {{{in_file}: 'file:1'}}", path=file).kafka_config() == {"bootstrap.servers": "file:1"}
    assert load(f"kafka: {{{in_file}: 'file:1'}}", path=file, **env).kafka_config() == {"bootstrap.servers": "env:1"}
    loaded = load(f"kafka: {{{in_file}: 'file:1'}}", "--kafka", f"{option}=a:1,b:2", path=file, **env)
    assert loaded.kafka_config() == {"bootstrap.servers": "a:1,b:2"}


def test_only_log_level_keeps_its_underscore() -> None:
    loaded = load(None, "--kafka", "log_level=3", SLOTSTREAM_KAFKA__SOCKET_KEEPALIVE_ENABLE="true")
    assert loaded.kafka_config() == {"bootstrap.servers": "localhost:9092", "log_level": "3", "socket.keepalive.enable": "true"}
    assert kafka_key("log.level") == "log_level"


ADDRESSES = {
    "": "an address is empty",
    "a:1,,b:2": "an address is empty",
    ":9092": ":9092 has no host",
    "9092": "9092 has a port and no host",
    "host:": "host: has no port after the colon",
    "host:99999": "99999 is no port from 1 to 65535",
    "host:0": "0 is no port from 1 to 65535",
    "host:abc": "abc is no port from 1 to 65535",
    "http://host:9092": "http:// is no protocol of a Kafka listener",
    "host:9092/path": "host:9092/path has a path",
    "host one:9092": "host one is no host name",
    "::1": "::1 has several colons: an IPv6 address is written in brackets, [::1]:9092",
}


@pytest.mark.parametrize("written", ADDRESSES)
def test_an_address_that_no_broker_can_have_is_refused_at_once(written: str, path: Path) -> None:
    expected = f"expected HOST:PORT, several separated by commas; {ADDRESSES[written]}"
    assert f"bootstrap.servers: found '{written}', {expected}" in problems(None, "--kafka", f"bootstrap.servers={written}")
    held = path.with_name("servers")
    held.write_text(f"{written}\n")
    assert "bootstrap.servers" in problems(f"kafka: {{bootstrap.servers: {{file: {held}}}}}", path=path)


def test_addresses_are_read_as_the_client_reads_them() -> None:
    assert addresses("a:1, b.c_d:2") == [("a", 1), ("b.c_d", 2)]
    assert addresses("SASL_SSL://host:9093,host") == [("host", 9093), ("host", 9092)]
    assert addresses("[::1]:9,[fe80::1%eth0],10.0.0.1:1") == [("::1", 9), ("fe80::1%eth0", 9092), ("10.0.0.1", 1)]


@pytest.mark.parametrize(
    ("written", "handed_over"), [("true", "true"), ("5", "5"), ("0.5", "0.5"), ("'0123'", "0123"), ("1e5", "1e5"), ("no", "false")]
)
def test_kafka_values_become_text_for_librdkafka(path: Path, written: str, handed_over: str) -> None:
    assert load(f"kafka: {{some.key: {written}}}", path=path).kafka_config()["some.key"] == handed_over


@pytest.mark.parametrize("text", ["1e5", "null", "true", "0123", "a=b", "", "[1]", "{a: 1}", " x "])
def test_kafka_text_of_variables_and_options_is_kept_as_it_is(text: str) -> None:
    assert load(None, "--kafka", f"some.key={text}").kafka_config()["some.key"] == text
    assert load(None, SLOTSTREAM_KAFKA__SASL_PASSWORD=text).kafka_config()["sasl.password"] == text


def test_the_process_environment_is_not_read_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLOTSTREAM_GROUP", "GROUP", "group"):
        monkeypatch.setenv(name, "unseen")
    assert load().group is None
    assert Settings().group is None


def test_null_can_be_said_in_every_source(path: Path) -> None:
    assert load("group: g", "--group", "null", path=path).group is None
    assert load("group: g", path=path, SLOTSTREAM_GROUP="null").group is None


def test_options_may_stand_with_or_without_an_equals_sign_and_the_last_wins() -> None:
    assert load(None, "--input.topic", "a", "--input.topic=b").input.topic == "b"
    assert load(None, "--kafka=client.id=a=b").kafka_config()["client.id"] == "a=b"


def test_the_configuration_file_is_named_or_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file(None, {}) is None
    (tmp_path / "config").mkdir()
    (tmp_path / "config/slotstream.yaml").touch()
    assert config_file(None, {}) == Path("config/slotstream.yaml")
    assert config_file(None, {"SLOTSTREAM_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert config_file(Path("a.yaml"), {"SLOTSTREAM_CONFIG": "b.yaml"}) == Path("a.yaml")
    assert load(None, SLOTSTREAM_CONFIG="b.yaml") == Settings()


# Secrets.


def test_a_secret_is_read_from_its_file_without_the_last_line_end(tmp_path: Path, path: Path) -> None:
    secret = tmp_path / "password"
    for written, expected in (
        (f"{SECRET}\n", SECRET),
        (f" {SECRET}\r\n", f" {SECRET}"),
        (f"{SECRET}\n\n", f"{SECRET}\n"),
        (SECRET, SECRET),
    ):
        secret.write_bytes(written.encode())
        said = f"{{file: {secret}}}"
        for loaded in (
            load(f"kafka: {{sasl.password: {said}}}", path=path),
            load(None, SLOTSTREAM_KAFKA__SASL_PASSWORD=said),
            load(None, "--kafka", f"sasl.password={said}"),
        ):
            assert loaded.kafka_config()["sasl.password"] == expected


def test_a_missing_secret_names_its_key_and_path(path: Path) -> None:
    said = problems("kafka: {sasl.password: {file: /nowhere/password}}", path=path)
    assert f"{path}: kafka.sasl.password: found {{file: /nowhere/password}}, expected a readable file (no such file or directory)" in said


@pytest.mark.parametrize(
    "options",
    [
        ("--kafka", f"sasl.password={SECRET}"),
        (f"--kafka=sasl_password={SECRET}",),
        (f"--kafka.ssl.key.password={SECRET}",),
        ("--kafka.sasl.oauthbearer.client.secret", SECRET),
    ],
)
def test_a_secret_on_the_command_line_is_refused_since_every_user_can_see_it_there(options: tuple[str, ...]) -> None:
    said = problems(None, *options)
    assert "found a secret, which every user of this machine can see there" in said
    assert "{file: PATH}" in said
    assert SECRET not in said


def test_where_a_token_is_fetched_is_no_secret() -> None:
    given = load(None, "--kafka", "sasl.oauthbearer.token.endpoint.url=https://issuer/token")
    assert (given.secrets(), given.kafka_config()["sasl.oauthbearer.token.endpoint.url"]) == ([], "https://issuer/token")


def test_a_key_with_an_equals_sign_in_it_is_not_repeated(path: Path) -> None:
    said = problems(f"kafka: {{'sasl.password={SECRET}': null}}", path=path)
    assert "kafka.sasl.password: found an equals sign in a key" in said
    assert SECRET not in said


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_a_file_without_a_secret_in_it_is_refused(path: Path, tmp_path: Path, content: str) -> None:
    secret = tmp_path / "password"
    secret.write_text(content)
    said = problems(f"kafka: {{sasl.password: {{file: {secret}}}}}", path=path)
    assert f"found {{file: {secret}}}, expected a file with the value in it (it is empty)" in said


def test_settings_know_their_secrets_and_where_they_came_from(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{SECRET}\n")
    given = load(f"kafka: {{sasl.password: {{file: {secret}}}, ssl.key.pem: in line}}", path=path)
    assert sorted(given.secrets()) == [SECRET, "in line"]
    assert given.secret_files() == {"sasl.password": secret}


@pytest.mark.parametrize(
    "key", ["sasl.password", "ssl.key.password", "sasl.oauthbearer.client.secret", "ssl.key.pem", "sasl.oauthbearer.config", "my_token"]
)
def test_secrets_by_name_are_not_shown(key: str) -> None:
    loaded = load(None, **{f"SLOTSTREAM_KAFKA__{key.replace('.', '_').upper()}": SECRET})
    assert loaded.kafka_config()[kafka_key(key)] == SECRET
    for shown in (repr(loaded), str(loaded), loaded.model_dump_json(), repr(loaded.kafka), str(loaded.model_dump())):
        assert SECRET not in shown


def test_what_comes_from_a_file_is_not_shown_whatever_its_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    loaded = load(None, "--kafka", f"client.id={{file: {tmp_path}/secret}}")
    assert loaded.kafka_config()["client.id"] == SECRET
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {{sasl.password: [{SECRET}]}}",
        f"kafka: {{sasl.password: {{fil: {SECRET}}}}}",
        f'kafka: {{sasl.password: "{SECRET}\\0"}}',
        f"kafka: sasl.password={SECRET}",
        f"kafka_password: {SECRET}",
        f"sasl.password: {SECRET}",
        f"kafka: {{sasl.password: *{SECRET}}}",
        f"kafka: {{sasl.password: !{SECRET} x}}",
        f"kafka: {{sasl.password: %{SECRET}}}",
        f"kafka:\n  sasl.password: '{SECRET}\n",
        f"kafka: {{sasl.password: {SECRET}, sasl_password: {SECRET}}}",
        f"kafka: {{sasl.password: {SECRET}, sasl.password: {SECRET}}}",
        f"kafka:\n  sasl.password: {SECRET}: {SECRET}",
    ],
)
def test_no_error_about_the_file_shows_a_secret(path: Path, text: str) -> None:
    assert SECRET not in problems(text, path=path)


def test_no_error_about_variables_and_options_shows_a_secret() -> None:
    said = problems(None, "--kafka", f"sasl.password:{SECRET}", "--pasword", SECRET, SLOTSTREAM_PASSWORD=SECRET, SLOTSTREAM_KAFKA=SECRET)
    assert said.startswith("4 problems")
    assert SECRET not in said


# What is refused under kafka.


@pytest.mark.parametrize("name", KAFKA_REFUSED)
def test_what_the_service_decides_cannot_be_set_under_kafka(name: str, path: Path) -> None:
    instead = KAFKA_REFUSED[name]
    assert f"kafka.{name}: found 'x', cannot be set under kafka: {instead}" in problems(f"kafka: {{{name}: x}}", path=path)
    assert instead in problems(None, "--kafka", f"{name.replace('.', '_')}=x")
    assert instead in problems(None, **{f"SLOTSTREAM_KAFKA__{name.upper().replace('.', '_')}": "x"})


def test_the_list_of_what_cannot_be_set_is_whole() -> None:
    fixed = """group.id group.instance.id transactional.id enable.auto.commit enable.auto.offset.store isolation.level auto.offset.reset
    partition.assignment.strategy group.protocol enable.idempotence transaction.timeout.ms enable.partition.eof"""
    assert set(fixed.split()) <= set(KAFKA_REFUSED)
    for instead in KAFKA_REFUSED.values():
        assert instead.startswith(("set ", "it is fixed"))


# What a value may be.


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("30s", 30.0), ("15m", 900.0), ("1h", 3600.0), ("2d", 172_800.0), ("1.5s", 1.5), ("0s", 0.0)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@STEADY
@given(st.integers(0, 10**12))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-12)


@pytest.mark.parametrize("text", ["30", "30 s", "-1s", "1e3s", "s", "", "1h30m", "1w", "nan", "infs", "9" * 400 + "d", "1.s", ".5s", "30S"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 100ms"):
        parse_duration(text)
    assert "with its unit (100ms, 30s, 15m, 1h, 2d)" in problems(None, f"--checkpoint.interval={text}")


@pytest.mark.parametrize("written", ["30", "0.1", "true", "null", "[1s]", "{s: 1}"])
def test_a_bare_number_is_no_duration(written: str, path: Path) -> None:
    said = problems(f"commit_interval: {written}", path=path)
    assert "commit_interval: found" in said
    assert "expected a duration from 10ms to 5s, with its unit (100ms, 30s, 15m, 1h, 2d)" in said


def test_checkpoints_are_in_the_topic_unless_nothing_would_fence_them() -> None:
    assert (load().checkpoint_store, load().checkpoint_topic) == ("topic", "slotstream.predictions.checkpoints")
    assert load(None, "--checkpoint.topic=states").checkpoint_topic == "states"
    weaker = load(None, "--delivery=at_least_once")
    assert (weaker.checkpoint_store, weaker.checkpoint_topic) == ("directory", None)
    said = problems(None, "--delivery=at_least_once", "--checkpoint.store=topic")
    assert "checkpoint.store: found 'topic', expected directory or auto with delivery: at_least_once" in said
    assert "checkpoint.topic: found 'out', expected another topic than output.topic" in problems(
        None, "--output.topic=out", "--checkpoint.topic=out"
    )


def test_a_fault_in_a_scale_is_told_with_its_column() -> None:
    assert "; in column 2 std is 0: a column that never changed takes std: 1" in problems(None, "--input.scale={mean: 1, std: [1, 0, 2]}")
    assert "; in column 3 max is not above min, 4:" in problems(None, "--output.scale={min: [0, 1, 4], max: [1, 2, 4]}")
    assert "; the lists hold 2 and 3 numbers" in problems(None, "--input.scale={min: [0, 1], max: [1, 2, 3]}")


RAISE_GOOD = ["{above: 1}", "{below: -1e-3, for: 3}", "{above: {mad: 6}}", "{above: {quantile: 0.99, warmup: 10}, for: 2}", "null"]
RAISE_BAD = [
    "0.5",
    "{above: 1, below: 0}",
    "{for: 2}",
    "{above: .inf}",
    "{above: 1, for: 0}",
    "{above: {mad: 6, quantile: 0.9}}",
    "{above: {quantile: 1}}",
    "{above: {mad: -1}}",
    "{above: {mad: 6, warmup: 9}}",
    "{above: {mad: 6, window: 9}}",
    "[1]",
]
SCALES_BAD = [
    "{mean: 1}",
    "{mean: 1, std: 0}",
    "{mean: 1, std: -1}",
    "{mean: 1, max: 2}",
    "{min: 1, max: 1}",
    "{mean: [1, 2], std: [1, 2, 3]}",
    "{mean: x, std: 1}",
    "{mean: [], std: 1}",
    "{mean: .inf, std: 1}",
    "[1, 2]",
    "2",
]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("http.port", ["0", "65535"], ["-1", "65536", "80.5", "x", ""]),
        ("batch.readings_max", ["1", "1000000"], ["0", "1000001", "null", "true"]),
        ("batch.linger", ["0ms", "1s"], ["1001ms"]),
        ("slots", ["1", "auto", "100000000"], ["0", "-5", "all", "null", "1.5"]),
        ("dead_letter.max_ratio", ["0", "1", "0.25"], ["-0.1", "1.1", "nan", "inf", "half"]),
        ("checkpoint.keep", ["2", "5"], ["1", "0"]),
        ("commit_interval", ["10ms", "5s"], ["9ms", "5001ms", "0s"]),
        ("input.record_steps_max", ["1"], ["0"]),
        ("model.window", ["1", "null"], ["0", "-1"]),
        ("input.format", ["json", "float32"], ["avro", "null"]),
        ("input.features", ["[a]", "[a, b.c, b.d]", "null"], ["[]", "[a, a]", "[a, a.b]", "[timestamp]", "[a..b]", "[1]", "{a: b}"]),
        ("input.scale", ["{mean: 1, std: [1, 2e-5]}", "{min: [0, 1], max: 2}", "null"], SCALES_BAD),
        ("output.scale", ["{mean: 0, std: 1}", "null"], SCALES_BAD),
        ("output.residual", ["true", "false", "[0, 2]", "[a, 1]"], ["null", "[]", "[0, 0]", "[1.5]", "0", "all"]),
        ("output.residual", ["each", "{each: [a, 1]}", "{each: {y: true}}", "{a: [1], b: [2, c]}"], ["{each: each}", "{a: true, b: true}"]),
        ("output.fields", ["[a, B_2]", "a,b", "{y: [a], z: b}", "null"], ["[]", "[a, A]", "[a.b]", "[1]", "{y: [a], z: [A]}", "{}"]),
        ("output.carry", ["[]", "[a, b.c, header:x]", "header:*"], ["[1]", "null", "[a, x.a]", "header:", "[a..b]", "[steps]"]),
        ("output.reconstruction", ["true", "false", "decoder"], ["null", "", "[a]"]),
        ("reset.after_gap", ["1ms", "1d", "null"], ["0s", "10"]),
        ("reset.after_steps", ["1", "null"], ["0", "-1", "1.5"]),
        ("late", ["accept", "dead_letter"], ["drop", "null"]),
        ("checkpoint.store", ["auto", "topic", "directory"], ["disk", "null"]),
        ("checkpoint.topic", ["states", "null"], ["a b", ""]),
        ("delivery", ["exactly_once", "at_least_once"], ["at_most_once", "null"]),
        ("model.output", ["last", "all"], ["first"]),
        ("model.warmup_steps", ["0", "10"], ["-1"]),
        ("model.mode", ["auto", "carried", "windowed"], ["Auto", "rolling"]),
        ("leave_on_stop", ["true", "false"], ["yes", "1", "null"]),
        ("reset.each_record", ["true"], ["maybe"]),
        ("output.residual", ["true", "false"], ["null", "1"]),
        ("model.path", ["a/b.keras"], ["", "null"]),
        ("on_missing_state", ["rebuild", "cold", "fail"], ["continue"]),
        ("on_model_change", ["fail", "cold", "rebuild"], ["ignore"]),
        ("on_gap", ["rebuild", "cold", "fail"], ["continue"]),
        ("on_lost_input", ["fail", "continue"], ["cold"]),
        ("on_partitions_added", ["fail", "cold"], ["rebuild"]),
        ("log.level", ["debug", "error"], ["trace"]),
        ("log.format", ["auto", "console", "json"], ["text"]),
        ("input.start", ["earliest", "latest"], ["none"]),
        ("checkpoint.store", ["auto", "directory"], ["none"]),
        ("alarm.raise", RAISE_GOOD, RAISE_BAD),
        ("alarm.score", ["prediction[3]", "predicted_next[1]", "residual"], ["residuals", "prediction[-1]", "predicted_", "null"]),
        ("alarm.mean_of", ["1", "256"], ["0", "257", "null"]),
    ],
)
def test_the_limits_of_each_value(key: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        load(None, f"--{key}={text}")
    for text in bad:
        said = problems(None, f"--{key}={text}")
        assert said.startswith(f"1 problem in the settings:\n  - command line: --{key}: found ")
        assert ", expected " in said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("batch: {readings_max: true}", "true"),
        ("batch: {readings_max: 5.0}", "5.0"),
        ("leave_on_stop: 1", "1"),
        ("input: {topic: 12}", "12"),
        ("log: {level: 2020-01-01}", "2020-01-01"),
        ("slots: [1]", "a list"),
        ("slots: {a: 1}", "keys and values"),
        (f"group: {'x' * 300}", f"'{'x' * 76}..."),
    ],
)
def test_yaml_types_are_not_bent(text: str, found: str, path: Path) -> None:
    assert f": found {found}, expected " in problems(text, path=path)


NAME = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=249).filter(lambda name: name not in {".", "..", "null"})


@STEADY
@given(NAME)
def test_every_name_that_kafka_takes_is_taken(name: str) -> None:
    assert load(None, f"--group={name}").group == name


@pytest.mark.full
@STEADY
@given(st.text(min_size=1, max_size=260))
def test_no_name_that_kafka_refuses_is_taken(name: str) -> None:
    if set(name) <= set(string.ascii_letters + string.digits + "._-") and len(name) <= 249 and name not in {".", ".."}:
        return
    for key in ("input.topic", "output.topic", "dead_letter.topic", "group", "instance"):
        assert f"--{key}: found " in problems(None, f"--{key}={name}")


@pytest.mark.parametrize(
    ("options", "key", "other"),
    [
        (["--output.topic=readings"], "--output.topic", "input.topic"),
        (["--input.topic=predictions"], "default: output.topic", "input.topic"),
        (["--dead_letter.topic=readings"], "--dead_letter.topic", "input.topic"),
        (["--dead_letter.topic=predictions"], "--dead_letter.topic", "output.topic"),
        (["--output.topic=readings.dead-letter"], "default: dead_letter.topic", "output.topic"),
    ],
)
def test_the_topics_must_differ(options: list[str], key: str, other: str) -> None:
    said = problems(None, *options)
    assert f"{key}: found '" in said
    assert f"expected another topic than {other}" in said


def test_a_derived_dead_letter_topic_must_fit() -> None:
    assert "default: dead_letter.topic: found 'x" in problems(None, f"--input.topic={'x' * 240}")
    assert load(None, f"--input.topic={'x' * 237}").dead_letter_topic == "x" * 237 + ".dead-letter"


# Alarms.

ABOVE = "--alarm.raise={above: 2, for: 3}"


def test_alarms_are_off_until_it_is_said_when_one_is_raised() -> None:
    assert load().alarm_topic is None
    loaded = load(None, ABOVE, "--output.topic=out")
    assert loaded.alarm_topic == "out.alarms"
    assert load(None, ABOVE, "--alarm.topic=bells").alarm_topic == "bells"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--alarm.clear={for: 2}"], "command line: --alarm.clear: found keys and values, expected alarm.raise with it"),
        ([ABOVE, "--alarm.clear={above: 1}"], "--alarm.clear: found 'above', expected below, since an alarm is raised above its threshold"),
        ([ABOVE, "--alarm.clear={below: 2.5}"], "--alarm.clear: found 2.5, expected no threshold past that of raise, 2"),
        ([ABOVE, "--alarm.clear={below: {mad: 1}}"], "--alarm.clear: found 'mad', expected mad only where raise has mad"),
        ([ABOVE, '--alarm.thresholds={"a*": {raise: 1, clear: 2}}'], "for a* no threshold to clear past the one to raise, 1"),
        ([ABOVE, "--alarm.topic=predictions"], "--alarm.topic: found 'predictions', expected another topic than output.topic"),
        ([ABOVE, "--alarm.topic=readings.dead-letter"], "expected another topic than dead_letter.topic"),
        ([ABOVE, "--alarm.topic=x", "--checkpoint.topic=x"], "--checkpoint.topic: found 'x', expected another topic than alarm.topic"),
        (['--alarm.thresholds={"": 1}', ABOVE], """--alarm.thresholds: found '{"": 1}', expected a map of thresholds"""),
    ],
)
def test_what_does_not_fit_together_in_alarms_is_told(options: list[str], told: str) -> None:
    assert told in problems(None, *options)


def test_the_rule_of_alarms_decides_and_their_topic_does_not() -> None:
    plain = load().deciding()
    with_alarms = load(None, ABOVE, "--alarm.topic=bells", "--alarm.repeat=1h", "--alarm.clear={for: 2}").deciding()
    assert with_alarms.keys() - plain.keys() == {"alarm.raise", "alarm.repeat", "alarm.clear"}
    assert json.loads(json.dumps(with_alarms)) == with_alarms
    assert load(None, "--alarm.mean_of=3").deciding() == plain


# How problems are told.


def test_all_problems_of_all_sources_are_told_at_once(path: Path) -> None:
    said = problems(
        "input: {topc: x, format: xml}\nbatch: {readings_max: 0}\nkafka: {group.id: x, acks: [1]}\noutput: {topic: readings}",
        "--commit_interval",
        "30",
        "--http.prt=1",
        "stray",
        "--group",
        path=path,
        SLOTSTREAM_SLOTS="0",
        SLOTSTREAM_INPUT_TOPIC="x",
        OTHER="x",
    )
    assert said.split("\n")[0] == "11 problems in the settings:"
    for line in (
        f"{path}: input.topc: unknown key, the nearest is input.topic",
        f"{path}: input.format: found 'xml', expected json",
        f"{path}: batch.readings_max: found 0, expected a whole number from 1 to 1,000,000",
        f"{path}: kafka.group.id: found 'x', cannot be set under kafka: set the key group",
        f"{path}: kafka.acks: found a list, expected text, a number, true, false, or {{file: PATH}}",
        "command line: --commit_interval: found '30', expected a duration from 10ms to 5s",
        "command line: --http.prt: unknown key, the nearest is --http.port",
        "command line: found stray, expected an option such as --input.topic",
        "command line: --group: found no value, expected --group VALUE",
        "environment: SLOTSTREAM_SLOTS: found '0', expected auto, or a whole number, 1 or more",
        "environment: SLOTSTREAM_INPUT_TOPIC: unknown key, the nearest is SLOTSTREAM_INPUT__TOPIC",
    ):
        assert f"\n  - {line}" in said


def test_a_value_that_a_higher_source_replaces_is_not_a_problem(path: Path) -> None:
    assert load("slots: 0", "--slots=5", path=path).slots == 5


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("topc", None), ("input.topik", "input.topic"), ("commit-interval", "commit_interval"), ("linger", "batch.linger"), ("zzz.qqq", None)],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str | None) -> None:
    said = problems(None, f"--{key}=x")
    assert f"--{key}: unknown key" in said
    if nearest:
        assert f"the nearest is --{nearest}" in said


def test_addresses_that_kubernetes_puts_beside_a_service_are_not_settings() -> None:
    links = """SLOTSTREAM_SERVICE_HOST SLOTSTREAM_SERVICE_PORT SLOTSTREAM_SERVICE_PORT_HTTP SLOTSTREAM_PORT SLOTSTREAM_PORT_8080_TCP
    SLOTSTREAM_PORT_8080_TCP_ADDR SLOTSTREAM_PORT_8080_TCP_PORT SLOTSTREAM_PORT_8080_TCP_PROTO"""
    assert load(None, **dict.fromkeys(links.split(), "tcp://10.0.0.1:8080")) == Settings()
    assert "unknown key" in problems(None, SLOTSTREAM_PORTS="1")


@pytest.mark.parametrize("text", ["", "# nothing\n", "input:\n", "input: {}\nkafka:\n", "---\n"])
def test_an_empty_file_or_section_is_fine(text: str, path: Path) -> None:
    assert load(text, path=path) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("input:\n  topic: [a\n", "line 3, column 1: found something that is not YAML"),
        ("a: 1\n\tb: 2\n", "line 2, column 1: found a tab, expected spaces"),
        ("input:\n\ttopic: a\n", "line 2, column 1: found a tab, expected spaces"),
        ("input: {topic: a}\nslots: 1\ninput: {start: latest}\n", "line 3, column 1: the key input stands twice"),
        ("http:\n  port: 1\n  port: 2\n", "line 3, column 3: the key port stands twice"),
        ("- a\n", "found a list, expected keys and values"),
        ("text\n", "found a single value, expected keys and values"),
        ("slots: 2020-99-99\n", "found something that is not YAML"),
        ("? [a]\n: 1\n", "found something that is not YAML"),
        ("input: readings\n", "input: found a single value, expected input to hold keys: input.topic and others"),
        ("kafka: {a_b: 1, a.b: 2}\n", "kafka.a.b: the key was given already, as kafka.a_b"),
        ("1: 2\n", "1: unknown key"),
        ("[" * 3000, "found something that is not YAML"),
    ],
)
def test_a_broken_file_is_told_with_its_place(text: str, told: str, path: Path) -> None:
    assert told in problems(text, path=path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.yaml: found no such file or directory, expected a readable YAML file"):
        load_settings(tmp_path / "missing.yaml", [], {})
    with pytest.raises(ConfigurationError, match="is a directory"):
        load_settings(tmp_path, [], {})
    path.write_bytes(b"input: {topic: \xff}")
    with pytest.raises(ConfigurationError, match="text that is not UTF-8"):
        load_settings(path, [], {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*Settings.model_fields, *(key.name.rpartition(".")[2] for key in keys())])


@pytest.mark.full
@settings(STEADY, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=4), max_size=4), st.dictionaries(st.text(), st.text(), max_size=2)
)
def test_whatever_is_written_is_taken_or_told(path: Path, content: dict[str, Any], environ: dict[str, str]) -> None:
    path.write_text(yaml.safe_dump(content))
    try:
        loaded = load_settings(path, [], {f"SLOTSTREAM_{name}": value for name, value in environ.items()})
    except ConfigurationError as error:
        assert " in the settings:\n  - " in str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert loaded.kafka_config()


@pytest.mark.full
@settings(STEADY, max_examples=200)
@given(st.lists(st.text(max_size=12) | st.sampled_from(["--", "--kafka", "--input.topic", "--slots=", "--=", "--kafka=", "="]), max_size=6))
def test_whatever_is_on_the_command_line_is_taken_or_told(words: list[str]) -> None:
    try:
        load_settings(None, words, {})
    except ConfigurationError as error:
        assert "command line: " in str(error)  # noqa: PT017 (either outcome is right)


# The settings that decide.


def test_the_settings_that_decide_are_plain_data_in_a_fixed_order() -> None:
    decided = load().deciding()
    assert json.loads(json.dumps(decided)) == decided
    assert list(decided) == list(load(None, "--model.window=5", "--reset.each_record=true").deciding())
    assert set(decided) <= {key.name for key in keys()}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.mode", "carried"),
        ("model.window", "5"),
        ("output.residual", "true"),
        ("output.residual", "each"),
        ("output.reconstruction", "true"),
        ("output.fields", "[a, b]"),
        ("output.carry", "[a, header:b]"),
        ("reset.each_record", "true"),
        ("input.ahead_max", "2h"),
        ("input.record_steps_max", "5"),
    ],
)
def test_a_setting_that_decides_is_seen(key: str, text: str) -> None:
    changed = load(None, f"--{key}={text}")
    assert changed.deciding() == {**Settings().deciding(), key: value_of(changed, key)}
    assert changed.deciding() != Settings().deciding()


@pytest.mark.parametrize(
    "option", ["batch.readings_max=1", "slots=1", "commit_interval=1s", "input.topic=a", "group=g", "on_missing_state=cold"]
)
def test_a_setting_that_does_not_decide_is_not_seen(option: str) -> None:
    assert load(None, f"--{option}").deciding() == Settings().deciding()


def test_a_section_of_the_wrong_name_is_told_by_the_nearest_section(tmp_path: Path) -> None:
    path = tmp_path / "slotstream.yaml"
    path.write_text("inputs:\n  topic: a\nkafak:\n  bootstrap.servers: b\nresets: {after_gap: 5m}\nkafka:\n  group.id: g\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, [], {})
    said = str(caught.value)
    assert "inputs: unknown key, the nearest that holds keys is input" in said
    assert "kafak: unknown key, the nearest that holds keys is kafka" in said
    assert "resets: unknown key, the nearest that holds keys is reset" in said
    assert "kafka.group.id: found 'g', cannot be set under kafka" in said
