"""The documentation names only what is there: paths, links, make targets, settings and figures."""

import json
import re

import pytest
import yaml
from places import ROOT

from processor import errors
from processor.metrics import Metrics
from processor.records import ERRORS
from processor.settings import Settings, keys, sections

PAGES = (
    *(name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md") if (ROOT / name).exists()),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
FOLDERS = tuple(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in {"build", "dist", "checkpoints"})
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


def in_backticks(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page))


def paths(page: str) -> list[str]:
    """What reads as a path of this repository: it begins with one of its folders, or is a file at its top."""
    found = [text for text in in_backticks(page) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", text)]
    top = re.compile(r"(README|CHANGELOG|LICENSE|Makefile|pyproject|constraints)(\.\w+)?")
    return [text for text in found if (text.partition("/")[0] in FOLDERS and "/" in text) or top.fullmatch(text)]


def headings(page: str) -> set[str]:
    """As a link names them: lower case, hyphens for spaces, no punctuation."""
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", FENCED.sub("", page), re.MULTILINE)}


def test_paths_in_backticks_exist(page: str) -> None:
    assert [path for path in paths(page) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_resolve(name: str) -> None:
    text = FENCED.sub("", (ROOT / name).read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if "://" not in link and (not target.exists() or (anchor and anchor not in headings(target.read_text(encoding="utf-8")))):
            broken.append(link)
    assert broken == []


def test_make_targets_exist(page: str) -> None:
    there = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", page, re.MULTILINE))
    assert named <= there


def test_settings_named_exist(page: str) -> None:
    known = {key.name for key in keys()}
    named = [text.partition(":")[0] for text in in_backticks(page) if re.fullmatch(r"[a-z_]+\.(?!keras)[a-z_]+(: \w+)?", text)]
    assert [name for name in named if name.partition(".")[0] in sections() and name not in known] == []


def test_metrics_named_exist(page: str) -> None:
    text = Metrics().render().decode()
    assert [name for name in in_backticks(page) if re.fullmatch(r"slotstream_[a-z_]+", name) and name not in text] == []


def test_errors_named_exist() -> None:
    page = (ROOT / "docs/architecture/failures.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+)`, exit (\d)", page))
    assert named
    assert [(name, code) for name, code in named if str(getattr(errors, name).exit_code) != code] == []


def test_the_page_on_records_names_every_reason_for_a_dead_letter() -> None:
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    assert [error for error in ERRORS if f"`{error}`" not in page] == []


def test_the_figures_of_the_demos_model_are_those_measured() -> None:
    page = (ROOT / "docs/demo.md").read_text(encoding="utf-8")
    model = json.loads((ROOT / "processor/demo/demo_model.json").read_text(encoding="utf-8"))
    rows = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+)(?: readings)? \|", page, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == {
        "precision": model["precision"],
        "recall": model["recall"],
        "delay": model["delay_ticks"],
        "error of the forecast": model["forecast_mae"],
        "error of the baseline": model["persistence_mae"],
    }
    prose = page.replace("\n", " ")
    assert f"of {model['alarms']} alarms" in prose
    assert f"of {model['faults']} faults with at least {model['judged_after']} readings" in prose
    assert f"last {model['mean_of']} residuals exceeds {model['threshold']}, which is {model['margin']} times" in prose
    assert f"({model['test']['sensors']} machines, {model['test']['ticks']:,} readings each)" in prose


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_the_settings_for_your_own_model_are_valid(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    text = page.partition("<<'END'\n")[2].partition("END\n")[0]
    settings = Settings(**yaml.safe_load(text))
    assert (settings.input.topic, settings.output.topic) == ("sensors", "forecasts")


def test_each_row_of_the_table_of_failures_has_a_test_of_its_name() -> None:
    table = (ROOT / "docs/architecture/failures.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")} - {"failure", "---"}
    tests = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    named = {row for words in re.findall(r'mark\.failure\(((?:\s*"[^"]+",?)+)', tests) for row in re.findall(r'"([^"]+)"', words)}
    named |= set(re.findall(r'dies\("[^"]+", \d+, "\w+", "([^"]+)"[),]', tests))
    assert len(rows) > 40
    assert rows - named == set(), "rows without a test"
    assert named - rows == set(), "tests of rows that are not there"


@pytest.mark.parametrize(("pages", "lines_max"), [("README.md", 150), ("docs/architecture/*.md", 200), ("docs/operations/*.md", 300)])
def test_a_page_is_short_enough_to_be_read(pages: str, lines_max: int) -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob(pages)}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > lines_max} == {}


def test_each_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert re.findall(r"\((\d{4}-[\w-]+\.md)\)", index) == decisions
