"""The GitHub workflows: they call what the Makefile has, on the Pythons that the project supports. `make workflows` lints them."""

import re
from typing import Any

import pytest
import yaml
from places import ROOT

WORKFLOWS = {path.name: yaml.load(path.read_text(), yaml.BaseLoader) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_a_workflow_for_each_tier_the_docs_and_a_release() -> None:
    assert set(WORKFLOWS) == {"quick.yml", "full.yml", "stack.yml", "docs.yml", "release.yml"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_only_targets_of_the_makefile(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {word for step in steps(WORKFLOWS[name]) for word in re.findall(r"\bmake ([a-z][\w-]*)", step.get("run", ""))}
    assert called
    assert called - targets == set()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_may_read_only_unless_it_publishes_and_has_an_end(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job_name, job in WORKFLOWS[name]["jobs"].items():
        assert "timeout-minutes" in job, job_name
        assert "permissions" not in job or job_name == "publish"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_githubs_own(name: str) -> None:
    """As .github/zizmor.yml says; others would have to be named by their commit."""
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []


def test_quick_runs_on_every_python_that_is_supported() -> None:
    wanted = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted
    pythons = WORKFLOWS["quick.yml"]["jobs"]["quick"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(int(wanted[1]), int(wanted[2]))]


def test_run_lines_take_nothing_of_an_event_into_the_shell() -> None:
    """A branch's or tag's name could be a command: it comes in by the environment."""
    lines = [step["run"] for workflow in WORKFLOWS.values() for step in steps(workflow) if "run" in step]
    assert [line for line in lines if "${{" in line] == []
