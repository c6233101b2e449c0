"""docs/operations/: each alert and each message that ends the service names a section there, and each section is named."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

import promql
import yaml
from places import ROOT

from processor import errors
from processor.errors import MANUAL, ConfigurationError, Fenced, SlotstreamError

ALERTS = "docs/operations/alerts.md"
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))


def sections(page: str) -> set[str]:
    """The anchors of the page's sections, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for level, title in re.findall(r"^(#+) (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        again = f"-{seen[anchor]}" if seen[anchor] else ""
        seen[anchor] += 1
        if len(level) > 1:
            found.add(anchor + again)
    return found


def named_by_messages() -> Iterator[str]:
    """`see` of every error that is made in processor/, and of every kind of error that has one."""
    for path in (ROOT / "processor").rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            ast.unparse(node.targets[0]): node.value.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.keyword) and node.arg == "see" and not isinstance(node.value, ast.Attribute):  # a finding's own
                yield node.value.value if isinstance(node.value, ast.Constant) else constants[ast.unparse(node.value)]
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "see" and ast.literal_eval(node.value):
                yield ast.literal_eval(node.value)


def test_anchors_are_made_as_github_makes_them() -> None:
    page = "# Page\n\n## A `word`, two-three (4)!\n\n```\n## none\n```\n\n## Again\n\n### Again\n"
    assert sections(page) == {"a-word-two-three-4", "again", "again-1"}


def test_each_message_that_ends_the_service_names_a_section_and_each_section_is_named() -> None:
    named = set(named_by_messages())
    assert len(named) > 15
    assert named == sections((ROOT / MANUAL).read_text(encoding="utf-8"))


def test_each_alert_names_a_section_and_each_section_is_named() -> None:
    rules = [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    named = {rule["annotations"]["runbook_url"].partition("}}")[2] for rule in rules if "alert" in rule}
    assert named == {f"{ALERTS}#{anchor}" for anchor in sections((ROOT / ALERTS).read_text(encoding="utf-8"))}


# What `slotstream run` is made of. What its tools say at a prompt needs no section, and a model that is refused has one by its kind.
ROOMS = ("checkpoint", "kafka", "settings", "stream", "web", "instance_lock.py", "app", "loop")


def test_each_error_that_can_end_the_service_names_a_section() -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SlotstreamError)}
    calls, silent = 0, []
    for room in ROOMS:
        path = ROOT / "processor" / room
        for file in [path] if path.is_file() else path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (kind := kinds.get(ast.unparse(node.func))):
                    calls += 1
                    if not kind.see and "see" not in {keyword.arg for keyword in node.keywords}:
                        silent.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert calls > 30
    assert silent == []


def test_a_message_ends_with_its_section() -> None:
    assert str(SlotstreamError("a", expected="b", do="c")) == "a. Expected: b. To do: c."
    assert str(ConfigurationError("a", expected="b", do="c", see="d")) == f"a. Expected: b. To do: c. See: {MANUAL}#d"
    assert str(Fenced("a", expected="b", do="c")).endswith(f" See: {MANUAL}#another-process-has-the-name")


def test_the_manuals_queries_ask_only_for_what_the_service_tells() -> None:
    page = (ROOT / ALERTS).read_text(encoding="utf-8")
    queries = [line for block in re.findall(r"^```promql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    assert len(queries) > 5
    assert [problem for query in queries for problem in promql.unknown(query, {})] == []
