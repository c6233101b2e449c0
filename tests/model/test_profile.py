"""`slotstream profile`: a CSV and a model to bins, which the service then counts by."""

import json
from pathlib import Path

import numpy as np
import pytest
from harness import L, save_model

from processor import cli, logs
from processor.csv_io.profile_csv import Sample


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_: None)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rows = [f"{'ab'[i % 2]},{i},{i / 10},{5 if i < 990 else 'x'}" for i in range(1000)]
    path = tmp_path / "train.csv"
    path.write_text("machine,time,pressure,speed\n" + "\n".join(rows) + "\n")
    return path


def test_a_profile_of_a_csv_has_bins_of_readings_and_predictions(tmp_path: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "model.keras", L.LSTM(4), L.Dense(2), features=2)
    target = tmp_path / "profile.json"
    options = ["--input.features=[pressure, speed]", "--input.scale={mean: [50, 5], std: [30, 1]}", f"--model.path={model}", "--bins=4"]
    code = cli.main(["profile", str(csv), "--key=machine", "--columns=pressure,speed", "-o", str(target), *options])
    assert code == 0
    assert f"{target}: 990 readings, 2 features, 2 outputs; 10 rows were left out" in capsys.readouterr().out
    told = json.loads(target.read_text())
    pressure, speed = told["features"]["pressure"], told["features"]["speed"]
    assert pressure["edges"] == pytest.approx([24.7, 49.4, 74.1], abs=0.2)  # in its own unit
    assert pressure["shares"] == pytest.approx([0.25] * 4, abs=0.01)
    assert speed["shares"] == [0, 1, 0]
    assert [len(column["shares"]) for column in told["outputs"].values()] == [4, 4]
    assert [sum(column["shares"]) for column in told["outputs"].values()] == pytest.approx([1, 1], abs=1e-4)


def test_a_sample_is_bounded_and_each_row_has_the_same_chance() -> None:
    sample = Sample(rows_max=2000)
    for first in range(0, 50_000, 500):
        sample.add(np.arange(first, first + 500, dtype=np.float32)[:, None])
    kept = sample.columns(1)[:, 0]
    assert sample.rows == 50_000
    assert 800 < len(kept) <= 2000
    assert np.quantile(kept, [0.25, 0.5, 0.75]) == pytest.approx([12_500, 25_000, 37_500], rel=0.1)
