"""What a user has set for Keras, in the environment or in Keras's own file, is theirs: it does not reach into a command."""

import json
import os
import subprocess
import sys

import keras

from processor.model.heartbeat import Heartbeat

SETTINGS = {"backend": "torch", "floatx": "float64", "epsilon": 0.5, "image_data_format": "channels_first"}


def test_a_command_that_loads_a_model_computes_in_float32_on_tensorflow(tmp_path):
    """Its answer is the one that it gives without these settings, and the file of the settings stays as it is."""
    model, file = tmp_path / "model.keras", tmp_path / "keras.json"
    x = keras.Input((4, 3))
    keras.Model(x, keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(2, 2)(x))).save(model)
    file.write_text(json.dumps(SETTINGS))
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "processor.cli", "model", "show", str(model), "--json"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["servable"]
    assert json.loads(file.read_text()) == SETTINGS


def test_what_takes_long_says_what_it_does():
    said = []
    with Heartbeat(lambda doing, seconds: said.append((doing, seconds)), every_s=0.001) as heartbeat:
        heartbeat.doing = "counting"
        while len([doing for doing, _ in said if doing == "counting"]) < 2:
            pass
    assert said[-1][1] > 0
    length = len(said)
    assert len(said) == length
