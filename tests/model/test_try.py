"""`slotstream try`: a table of what the service would publish, for a CSV, without a broker."""

import csv
import datetime
import json
import logging
import sys

import numpy as np
import pytest
import structlog
from harness import keras, save_model
from tiers import few

from processor import cli, logs
from processor.csv_io import plot, try_model
from processor.model.load import load
from processor.settings import load_settings
from processor.verify.keras_judge import keras_last
from processor.verify.oracle import Reference
from processor.verify.oracle_records import InputRecord

L = keras.layers
START = datetime.datetime(2024, 1, 31, 13, 45, tzinfo=datetime.UTC)
START_MS = 1_706_708_700_000


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOTSTREAM_CONFIG", raising=False)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    monkeypatch.setattr(try_model, "TILE_ROWS", 8)  # two rungs to compile instead of five
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Forecasts its two features."""
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(6), L.Dense(2), features=2)


@pytest.fixture
def run(capsys):
    """Exit code, rows of the table as dicts, and what was said."""

    def run(*words):
        code = cli.main(["try", *map(str, words)])
        said = capsys.readouterr()
        return code, list(csv.DictReader(said.out.splitlines())), said.err

    return run


def pumps(path, count=240, sensors=5, features=2, seed=3):
    """Rows as (minute, sensor, values), also written as a European spreadsheet writes them."""
    rng = np.random.default_rng(seed)
    rows = [(i // sensors, f"pump-{rng.integers(sensors)}", rng.normal(size=features).round(3).tolist()) for i in range(count)]
    lines = ["Zeit;Pumpe;" + ";".join(f"Wert {j} (°C)" for j in range(features))]
    for minute, sensor, values in rows:
        when = START + datetime.timedelta(minutes=minute)
        lines.append(f"{when:%d.%m.%Y %H:%M};{sensor};" + ";".join(str(v).replace(".", ",") for v in values))
    path.write_text("\r\n".join(lines) + "\r\n", encoding="latin-1")
    return rows


CSV = ["--key", "Pumpe", "--timestamp", "Zeit"]

MODELS = {
    "carried, with a residual": ([L.LSTM(6), L.Dense(2)], {}, ["--output.residual", "true", "--model.warmup_steps=3"]),
    "each step": ([L.GRU(5, return_sequences=True), L.Dense(3)], {}, []),
    "windowed": ([L.Bidirectional(L.LSTM(4)), L.Dense(2)], {"steps": 7}, ["--output.residual=true"]),
    "each record a sequence": ([L.LSTM(4), L.Dense(1)], {}, ["--reset.each_record", "true"]),
    "named, scaled, one forecast": (
        [L.LSTM(4), L.Dense(1)],
        {},
        ["--input.features=[a, b.c]", "--input.scale={mean: 1, std: 2}", "--output.scale={mean: 1, std: 2}", "--output.residual=[b.c]"],
    ),
    "expiring": ([L.LSTM(4), L.Dense(2)], {}, ["--state.expire_after=3m"]),
    "float32, begun anew": ([L.LSTM(4), L.Dense(1)], {}, ["--input.format=float32", "--reset.after_steps=4"]),
}


def value(ms, values, settings):
    """A record's value, written by hand."""
    if "--input.format=float32" in settings:
        return np.array(values, "<f4").tobytes()
    if "--input.features=[a, b.c]" in settings:
        return json.dumps({"timestamp": ms, "a": values[0], "b": {"c": values[1]}}).encode()
    return json.dumps({"timestamp": ms, "values": values}).encode()


@pytest.mark.parametrize("name", few(MODELS, "carried, with a residual", "windowed"))
def test_the_table_has_the_references_bits_and_kerass_numbers(name, run, tmp_path, monkeypatch):
    layers, options, settings = MODELS[name]
    path = save_model(tmp_path / "m.keras", *layers, features=2, **options)
    rows = pumps(tmp_path / "pumps.csv")
    monkeypatch.setattr(try_model, "BATCH_READINGS", 37)
    code, table, said = run(path, "pumps.csv", *CSV, *settings)
    assert code == 0
    records = []
    for line, (minute, sensor, values) in enumerate(rows, 2):
        ms = START_MS + 60_000 * minute
        records.append(InputRecord(0, line, sensor.encode(), value(ms, values, settings), ms))
    loaded = load(path)
    want = Reference(loaded, load_settings(None, settings, {}), "x").expect(records)
    assert len(table) == len(want) == len(rows)
    columns = [column for column in table[0] if column.startswith("prediction_")]
    last = {}
    for row, record in zip(table, records, strict=True):
        answer = want[0, int(row["line"])]
        assert row["sensor"] == answer["sensor"]
        when = datetime.datetime.fromisoformat(row["timestamp"])
        assert when == START + datetime.timedelta(milliseconds=answer["timestamp"] - START_MS)
        found = [float(np.float32(row[column])) for column in columns] if row[columns[0]] else None
        assert found == answer["prediction"]
        if "residual" in row:
            assert (float(np.float32(row["residual"])) if row["residual"] else None) == answer["residual"]
        assert row["warming_up"] == ("true" if answer.get("warming_up") else "false")
        assert row["error"] == row["error_detail"] == ""
        last[record.key] = found
    if not any(word in "".join(settings) for word in ("reset", "scale", "expire")):
        for sensor, found in last.items():
            x = np.array([values for _, of, values in rows if of == sensor.decode()], np.float32)
            np.testing.assert_allclose(found, keras_last(loaded, x), atol=1e-5, rtol=0)
    assert f"m.keras: {loaded.why}" in said
    assert "latin-1, separator semicolon; decimal commas; timestamps are dates with the day first" in said
    assert f"{len(rows)} readings of 5 sensors" in said


def test_outputs_are_named_after_the_columns_where_they_are_as_many(model, run, tmp_path):
    pumps(tmp_path / "pumps.csv", count=3)
    _, table, _ = run(model, "pumps.csv", *CSV)
    named = ["prediction_Wert 0 (°C)", "prediction_Wert 1 (°C)"]
    assert list(table[0]) == ["line", "sensor", "timestamp", *named, "warming_up", "error", "error_detail"]
    other = save_model(tmp_path / "other.keras", L.GRU(3), L.Dense(3), features=2)
    _, table, _ = run(other, "pumps.csv", *CSV)
    assert [column for column in table[0] if "prediction" in column] == ["prediction_1", "prediction_2", "prediction_3"]


def test_a_row_that_is_no_reading_is_the_dead_letter_that_it_would_be_and_changes_nothing(model, run, tmp_path):
    good = "pump,when,x,y\na,2024-01-01T00:00:00Z,1,2\na,2024-01-01T00:01:00Z,3,4\n"
    bad = """\
a,2024-01-01,,2
a,2024-01-01,1,N/A
a,2024-01-01,inf,2
a,2024-01-01,1e39,2
a,2024-01-01,1
a,2024-01-01,1,2,3
,2024-01-01,1,2
a,never,1,2
a,,1,2
"""
    (tmp_path / "good.csv").write_text(good)
    first, last = good.rsplit("\n", 2)[:2]
    (tmp_path / "bad.csv").write_text(f"{first}\n{bad}{last}\n")
    named = ["--key=pump", "--timestamp=when"]
    code, table, said = run(model, "bad.csv", *named)
    assert code == 0
    assert [(row["line"], row["error"], row["error_detail"]) for row in table if row["error"]] == [
        ("3", "bad_schema", "x is empty"),
        ("4", "bad_schema", "y is 'N/A': expected a number"),
        ("5", "not_finite", "x is 'inf': expected a number"),
        ("6", "not_finite", "a value, scaled as the settings say, is NaN or lies past float32; expected less than 3.4e38"),
        ("7", "wrong_feature_count", "found 3 cells, expected 4"),
        ("8", "wrong_feature_count", "found 5 cells, expected 4"),
        ("9", "no_key", "pump is empty: expected a sensor's name"),
        ("10", "bad_timestamp", "timestamp is 'never': expected a date and time, as in the rows before"),
        ("11", "bad_timestamp", "timestamp is empty"),
    ]
    assert all(row["prediction_x"] == row["warming_up"] == "" for row in table if row["error"])
    assert "11 readings of 1 sensor, 2 predictions, 9 errors (bad_schema 2" in said
    predictions = [row["prediction_x"] for row in table if not row["error"]]
    assert predictions == [row["prediction_x"] for row in run(model, "good.csv", *named)[1]]


def test_a_reading_that_breaks_its_sensor_is_told(run, tmp_path):
    loud = keras.initializers.Constant(3e19)
    path = save_model(tmp_path / "loud.keras", L.SimpleRNN(4, activation="relu", recurrent_initializer=loud), L.Dense(2), features=1)
    (tmp_path / "a.csv").write_text("x\n1\n1e19\n1e19\n")
    _, table, _ = run(path, "a.csv", "--sensor", "s")
    assert "non_finite_state" in [row["error"] for row in table]


def test_a_late_reading_is_told(model, run, tmp_path):
    (tmp_path / "a.csv").write_text("t,x,y\n1706708700,1,2\n1706708699,1,2\n1706708700,1,2\n")
    _, table, _ = run(model, "a.csv", "--sensor=s", "--timestamp=t", "--late=dead_letter")
    assert [row["error"] for row in table] == ["", "late", ""]


def test_one_forecast_is_named_after_its_column(run, tmp_path):
    path = save_model(tmp_path / "one.keras", L.LSTM(3), L.Dense(1), features=2)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    _, table, _ = run(path, "a.csv", "--sensor=s", "--output.residual=[1]", "--plot=a.png")
    assert [column for column in table[0] if "prediction" in column] == ["prediction_y"]
    assert float(table[1]["residual"]) == pytest.approx(abs(4 - float(table[0]["prediction_y"])), abs=1e-5)


def test_a_file_without_any_prediction_ends_with_1(model, run, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,\n2,\n")
    code, table, _ = run(model, "a.csv", "--sensor=s", "--columns=x,y")
    assert code == 1
    assert [row["error"] for row in table] == ["bad_schema", "bad_schema"]


def test_without_a_column_for_it_there_is_no_time(model, run, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    _, table, _ = run(model, "a.csv", "--sensor=s")
    assert [(row["sensor"], row["timestamp"]) for row in table] == [("s", "")]


def test_the_table_can_be_a_file(model, run, tmp_path):
    pumps(tmp_path / "pumps.csv", count=5)
    _, table, _ = run(model, "pumps.csv", *CSV)
    code, nothing, _ = run(model, "pumps.csv", *CSV, "--output", "found.csv")
    assert (code, nothing) == (0, [])
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == table


def test_settings_and_files_may_stand_in_any_order(model, run, tmp_path):
    pumps(tmp_path / "pumps.csv", count=5)
    code, table, _ = run("--output.residual", "true", model, "--slots", "2", "pumps.csv", "--model.warmup_steps", "2", *CSV)
    assert code == 0
    assert "residual" in table[0]
    assert table[0]["warming_up"] == "true"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key=Pumpe"], "has 2 features, and these columns are taken: Zeit, Wert 0 (°C), Wert 1 (°C) (3)"),
        (["--key=Pumpf"], "the nearest is Pumpe"),
        ([*CSV, "--output=pumps.csv"], "is the file that is read"),
        ([*CSV, "--plot=./pumps.csv"], "is the file that is read"),
        ([*CSV, "--output=there/is/none.csv"], "cannot be written"),
        ([*CSV, "--slots=0"], "--slots: found '0'"),
        ([*CSV, "--plot=a.gif"], ".png, .svg, .pdf"),
        ([*CSV, "--plot=none/a.png"], "there is no such folder"),
        ([*CSV, "--output.residual=true", "--columns=Wert 0 (°C)"], "has 2 features, and these columns are taken: Wert 0 (°C) (1)"),
    ],
)
def test_what_cannot_work_is_told(options, said, model, run, tmp_path):
    pumps(tmp_path / "pumps.csv", count=5)
    (tmp_path / "plotted").mkdir()
    code, _, err = run(model, "pumps.csv", *options)
    assert code in (1, 2)
    assert said in err


def test_a_residual_of_a_model_that_gives_something_else_is_refused(run, tmp_path):
    pumps(tmp_path / "pumps.csv", count=5)
    path = save_model(tmp_path / "one.keras", L.LSTM(3), L.Dense(1), features=2)
    code, _, said = run(path, "pumps.csv", *CSV, "--output.residual=true")
    assert code == 2
    assert "output.residual" in said


# The picture.

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("settings", [[], ["--output.residual=true"]])
def test_a_picture_is_drawn(settings, model, run, tmp_path):
    pumps(tmp_path / "pumps.csv")
    code, _, said = run(model, "pumps.csv", *CSV, *settings, "--plot", "out.png")
    assert code == 0
    assert "out.png is drawn" in said
    picture = (tmp_path / "out.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 20_000


def test_alarms_are_listed_drawn_and_compared_with_labels(model, run, tmp_path):
    rows = pumps(tmp_path / "pumps.csv")
    lines = (tmp_path / "pumps.csv").read_text(encoding="latin-1").splitlines()
    labelled = [f"{lines[0]};anomaly", *(f"{line};{int(abs(row[2][0]) > 2)}" for line, row in zip(lines[1:], rows, strict=True))]
    (tmp_path / "labelled.csv").write_text("\n".join(labelled) + "\n", encoding="latin-1")
    rule = ["--output.residual=true", "--alarm.raise={above: 1.5}", "--labels=anomaly", "--plot=out.png"]
    code, found, said = run(model, "labelled.csv", *CSV, *rule)
    assert code == 0
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)
    alarms = sum(row["alarm"] == "true" for row in found)
    assert alarms == sum(float(row["score"] or 0) > 1.5 for row in found) > 3
    assert " alarms:" in said
    assert "against the labels: precision" in said
    code, found, said = run(model, "pumps.csv", *CSV, "--output.residual=true", "--propose-threshold=100/day")
    assert "proposed: alarm.raise: {above: " in said
    assert not any(row["alarm"] == "true" for row in found)


def test_a_model_that_forecasts_something_else_is_drawn_too(run, tmp_path):
    pumps(tmp_path / "pumps.csv")
    path = save_model(tmp_path / "five.keras", L.LSTM(3), L.Dense(5), features=2)
    assert run(path, "pumps.csv", "--key=Pumpe", "--columns=Wert 0 (°C),Wert 1 (°C)", "--plot=out.svg")[0] == 0
    assert "2 more outputs are not drawn" in (tmp_path / "out.svg").read_text() or (tmp_path / "out.svg").stat().st_size > 10_000


def test_nothing_is_drawn_of_nothing(model, run, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,\n")
    assert "there is nothing to draw" in run(model, "a.csv", "--sensor=s", "--columns=x,y", "--plot=a.png")[2]
    assert not (tmp_path / "a.png").exists()


def test_a_long_file_is_drawn_from_a_bounded_number_of_readings(tmp_path):
    drawn = plot.Plot(tmp_path / "a.png")
    drawn.begin(["x"], 1, "a model")
    for i in range(3 * plot.POINTS_MAX):
        for sensor in ("a", "b"):
            drawn.add(sensor, None, [i], [i + 1.0], 0.5)
    for i in range(2 * plot.SENSORS_KEPT):
        drawn.add(f"other {i}", None, [i], None, None)
    assert len(drawn._series) == plot.SENSORS_KEPT
    series = drawn._series["a"]
    assert len(series.x) <= plot.POINTS_MAX
    steps = np.diff(series.x)
    assert set(steps.tolist()) == {series.stride}
    assert [row[0] for row in series.predicted][1:] == [x - 1 for x in series.x][1:], "a reading stands beside the forecast of it"
    assert drawn.draw()


def test_without_matplotlib_a_picture_is_refused_before_any_work(model, run, tmp_path, monkeypatch):
    pumps(tmp_path / "pumps.csv", count=5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, table, said = run(model, "pumps.csv", *CSV, "--plot", "out.png")
    assert (code, table) == (2, [])
    assert "pip install 'slotstream[plot]'" in said


def test_values_that_are_missing_are_held_as_the_service_holds_them(run, model, tmp_path):
    """Household power has ?, air quality -200, spreadsheets empty cells and N/A."""
    path = tmp_path / "holes.csv"
    path.write_text("pump,x,y\na,1,2\na,?,-200\na,,3\na,N/A,4\nb,?,1\na,1.234.5,1\na,5,6\n")
    holds = ["--input.missing={x: hold, y: 0.5}", "--input.missing_values=-200", "--input.features=[x, y]"]
    code, rows, _ = run(model, path, "--key=pump", *holds)
    assert code == 0
    assert [row["held"] for row in rows] == ["", "x y", "x", "x", "", "x", ""]
    assert [row["error"] for row in rows] == ["", "", "", "", "missing", "", ""]
    filled = tmp_path / "filled.csv"
    filled.write_text("pump,x,y\na,1,2\na,1,0.5\na,1,3\na,1,4\na,1,1\na,5,6\n")
    _, want, _ = run(model, filled, "--key=pump", "--input.features=[x, y]")
    predictions = [[row["prediction_x"], row["prediction_y"]] for row in rows if row["sensor"] == "a"]
    assert predictions == [[row["prediction_x"], row["prediction_y"]] for row in want]
