"""docs/kinds-of-models.md: each file that it shows is served as it says, with the reference's bits and with Keras's own numbers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import keras
from judge import message_of
from places import ROOT
from tiers import few

from processor.app.fit import codec_of, fingerprint_of, load_model, rules_of, shapes_of
from processor.engine import Engine
from processor.model.tiles import Tiles
from processor.pipeline import Pipeline
from processor.rules import Clock
from processor.settings import load_settings
from processor.verify.keras_judge import keras_last
from processor.verify.oracle import Reference, as_published
from processor.verify.oracle_records import InputRecord

PAGE = (ROOT / "docs" / "kinds-of-models.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| (\w+) \|", PAGE, re.MULTILINE)
MODES = {anchor: mode for _, anchor, mode in ROWS}
SENSORS, RECORDS = 7, 220
TOLERANCES = {"mixed-precision": 5e-3, "half-precision-on-windows": 4e-2, "double-precision": 2e-7}  # else 1e-5


def sections() -> Iterator[tuple[str, str, str]]:
    """Of each kind: its anchor, the program that writes its file, and its settings."""
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL))
        if "python" in blocks:
            anchor = re.sub(r"[^\w\- ]", "", part.partition("\n")[0].lower()).replace(" ", "-")
            yield anchor, blocks["python"], blocks.get("yaml", "")


SECTIONS = {anchor: rest for anchor, *rest in sections()}


def test_every_kind_has_a_row_and_every_row_a_kind() -> None:
    assert list(MODES) == list(SECTIONS)


def test_every_file_is_made_in_about_ten_lines() -> None:
    for anchor, (program, _) in SECTIONS.items():
        assert len(program.strip().splitlines()) <= 12, anchor


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anchor: str, *options: str) -> Any:
    """The settings and the model of a kind."""
    program, settings = SECTIONS[anchor]
    monkeypatch.chdir(tmp_path)
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    exec(program, {})
    Path("settings.yaml").write_text(settings or "{}", encoding="utf-8")
    return (given := load_settings(Path("settings.yaml"), ["--model.path=model.keras", *options], {})), load_model(given)


def stream(model: Any, rng: np.random.Generator) -> list[InputRecord]:
    """Records of several sensors mixed, a tenth of them of several steps. What is static is each sensor's own."""
    columns, records = draws(model), []
    static = [column for given in model.inputs.each if given.kind == "static" for column in range(given.first, given.last)]
    own = [{column: columns[column](rng) for column in static} for _ in range(SENSORS)]
    for offset in range(RECORDS):
        steps = int(rng.integers(2, 5)) if rng.random() < 0.1 else 1
        sensor = int(rng.integers(SENSORS))
        values = [[own[sensor].get(column, draw(rng)) for column, draw in enumerate(columns)] for _ in range(steps)]
        value = json.dumps({"values": values if steps > 1 else values[0]}).encode()
        records.append(InputRecord(0, offset, b"sensor-%d" % sensor, value, 1))
    return records


def answers(model: Any, settings: Any, records: list[InputRecord], rng: np.random.Generator) -> dict[tuple[int, int], Any]:
    """What the service's own codec and engine answer, the records cut into batches at random."""
    rules = rules_of(settings)
    engine = Engine(Tiles(model, rows_max=8), shapes_of(model, settings), rules, slots=4)
    pipeline = Pipeline(codec_of(settings, model, fingerprint_of(settings, model)), engine, rules.expire_ms)
    found, clocks, at = {}, {0: Clock()}, 0
    while at < len(records):
        batch = records[at : at + int(rng.choice([1, 3, 40]))]
        done = pipeline.process([message_of(record) for record in batch], clocks)
        clocks |= done.clocks
        for i, value in zip(done.decoded.source, done.values, strict=True):
            if value is not None:
                found[0, batch[i].offset] = as_published(value)
        found |= {(0, batch[i].offset): rejected.error for i, rejected in done.rejected}
        engine.commit()
        at += len(batch)
    return found


def draws(model: Any) -> list[Any]:
    """What makes up one number of each feature; one category in fifty is one that the model does not know."""

    def draw(count: int | None) -> Any:
        if count is None:
            return lambda rng: round(float(rng.normal()), 3)
        return lambda rng: int(rng.integers(count)) if rng.random() < 0.98 else [count, -1, 0.5][int(rng.integers(3))]

    return [draw(count) for count in model.inputs.categories]


@pytest.mark.parametrize("anchor", few(SECTIONS, "one-sequence-one-output", "categories", "several-outputs", long=SECTIONS))
def test_a_kind_is_served_as_keras_predicts(anchor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = served(tmp_path, monkeypatch, anchor)
    assert model.mode == MODES[anchor]
    rng = np.random.default_rng(3)
    records = stream(model, rng)
    found = answers(model, settings, records, rng)
    assert found == Reference(model, settings, fingerprint_of(settings, model)[:8]).expect(records)
    judged = 0
    for sensor in {record.key for record in records}:
        own = [record for record in records if record.key == sensor and found[0, record.offset] != "unknown_category"]
        x = np.concatenate([np.array(json.loads(record.value)["values"], np.float32).reshape(-1, model.features) for record in own])
        x = scaled(settings, model, x)
        at = own[-1]
        if model.trained_window is not None:  # Keras runs it on so many steps and no more
            x = x[: model.trained_window]
            at = next((record for record in own if found[0, record.offset]["steps"] == len(x)), None)
        if at is None or (model.mode == "windowed" and len(x) < model.window):
            continue
        expected = in_own_units(settings, model, keras_last(model, x))
        off = TOLERANCES.get(anchor, 1e-5)
        np.testing.assert_allclose(last_of(model, found[0, at.offset]["prediction"]), expected, atol=off, rtol=off)
        judged += 1
    assert judged > 3


def scaled(settings: Any, model: Any, x: np.ndarray) -> np.ndarray:
    if settings.input.scale is not None:
        measured = [count is None for count in model.inputs.categories]
        x[:, measured] = (x[:, measured] - settings.input.scale.offset[0]) / settings.input.scale.divisor[0]
    return x


def in_own_units(settings: Any, model: Any, y: np.ndarray) -> np.ndarray:
    given = settings.output.scale or {}
    for output in model.named_outputs:
        if output.name in given:
            scale = given[output.name]
            y[output.first : output.last] = y[output.first : output.last] * np.array(scale.divisor) + np.array(scale.offset)
    return y


def last_of(model: Any, prediction: Any) -> np.ndarray:
    """The numbers of the last step, output by output."""
    parts = prediction if isinstance(prediction, dict) else {model.named_outputs[0].name: prediction}
    assert list(parts) == [output.name for output in model.named_outputs]
    flat = (np.reshape(parts[output.name], (-1, output.last - output.first))[-1] for output in model.named_outputs)
    return np.concatenate(list(flat))
