"""The layout: who may import whom, and pages made from the code that are current."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from places import ROOT

from scripts import generate_docs as docs


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: import-linter imports the package it finds there."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "processor", tmp_path / "processor", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_point_down_only_and_libraries_stay_in_their_rooms() -> None:
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout
    assert ", 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("errors.py", "import processor.cli", "imports point down only"),
        ("slots/new.py", "import processor.engine", "imports point down only"),
        ("codec/new.py", "import processor.kafka", "imports point down only"),
        ("new.py", "import processor.errors", "imports point down only"),
        ("codec/new.py", "import tensorflow", "TensorFlow stays in its room"),
        ("states/new.py", "import keras", "TensorFlow stays in its room"),
        ("model/load.py", "import processor.model.convert.convert", "converting knows of loading, and loading of files"),
        ("checkpoint/new.py", "import confluent_kafka", "Kafka's client stays in its rooms"),
    ],
)
def test_a_broken_rule_is_found(copy: Path, module: str, line: str, broken: str) -> None:
    with (copy / "processor" / module).open("a") as file:
        file.write(f"\n{line}\n")
    found = lint_imports(copy)
    assert found.returncode == 1
    assert f"{broken} BROKEN" in found.stdout


@pytest.mark.parametrize("name", docs.FILES)
def test_pages_made_from_the_code_are_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == docs.FILES[name](), "run `python -m scripts.generate_docs`"


def test_the_pages_are_written_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    assert docs.main() == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(docs.FILES)


def test_each_file_name_stands_once() -> None:
    names = Counter(path.name for path in (ROOT / "processor").rglob("*.py") if not path.name.startswith("__"))
    assert [name for name, times in names.items() if times > 1] == []


# The rooms that make their parts from settings, or a client from the properties under `kafka`. All others take the values they need.
WITH_SETTINGS = {"app", "cli", "csv_io", "doctor", "kafka", "rekey", "settings", "sizing", "states", "verify"}


def test_settings_are_read_where_parts_are_made_of_them_only() -> None:
    importing = re.compile(r"^\s*from processor\.settings(\.\w+)? import .*\bSettings\b", re.MULTILINE)
    rooms = ROOT / "processor"
    found = {path.relative_to(rooms).parts[0] for path in rooms.rglob("*.py") if importing.search(path.read_text())}
    assert found - WITH_SETTINGS == set()


LONG_FILES = {"processor/settings/schema.py"}  # one list


def test_a_file_is_read_in_one_sitting() -> None:
    files = [path for room in ("processor", "deploy", "bench", "scripts", "recipes") for path in (ROOT / room).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: count for name, count in lines.items() if count > 350 and name not in LONG_FILES} == {}


def test_a_class_is_read_in_one_sitting() -> None:
    found = {}
    for path in (ROOT / "processor").rglob("*.py"):
        classes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
        found |= {f"{path.name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in classes}
    assert {name: count for name, count in found.items() if count > 250} == {}
