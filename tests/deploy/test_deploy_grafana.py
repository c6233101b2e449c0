"""deploy/grafana: the dashboard is the one that its program makes, asks only for what is there, and shows every figure of the service."""

import importlib
import json
from types import ModuleType

import promql
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from places import ROOT
from test_deploy_prometheus import RECORDED

from processor.metrics import CATALOGUE

DEPLOY = ROOT / "deploy" / "grafana"
BOARD = json.loads((DEPLOY / "dashboards" / "slotstream.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# Prometheus's own series of the alerts that it has found.
KNOWN = RECORDED | {"ALERTS": {"alertname", "alertstate"}}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEPLOY)
        return importlib.import_module("dashboard")


def expression(target: dict) -> str:
    return target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h")


EXPRESSIONS = [expression(target) for panel in PANELS for target in panel["targets"]]


def test_the_dashboard_is_current(program: ModuleType) -> None:
    text = (DEPLOY / "dashboards" / "slotstream.json").read_text(encoding="utf-8")
    assert text == program.text(), "run `python deploy/grafana/dashboard.py`"


def test_it_asks_only_for_what_is_there() -> None:
    assert len(EXPRESSIONS) > 40
    assert [problem for text in EXPRESSIONS for problem in promql.unknown(text, KNOWN)] == []


def test_it_shows_every_figure_of_the_service() -> None:
    asked = set().union(*map(promql.names, EXPRESSIONS))
    shown = {promql.SERIES[name][0].name for name in asked if name in promql.SERIES}
    assert {spec.name for spec in CATALOGUE} - shown == set()


def test_each_line_of_a_figure_of_an_instance_is_of_the_instances_chosen() -> None:
    """And those of the whole service of the job: nothing of another one is mixed in."""
    for text in EXPRESSIONS:
        if "ALERTS" not in text:
            assert text.count("{") == text.count('{namespace=~"$namespace", job=~"$job"'), text


def test_counters_and_buckets_are_never_shown_bare() -> None:
    """A counter by itself only tells when a process began."""

    def bare(node: object, within: bool) -> list[str]:
        if isinstance(node, promql_parser.VectorSelector):
            return [node.name] if not within and node.name.endswith(("_total", "_bucket", "_count", "_sum")) else []
        if isinstance(node, promql_parser.MatrixSelector):
            return []
        parts = [getattr(node, name) for name in ("expr", "lhs", "rhs") if hasattr(node, name)] + list(getattr(node, "args", []))
        return [name for part in parts for name in bare(part, within)]

    assert [name for text in EXPRESSIONS for name in bare(promql_parser.parse(text), within=False)] == []
    assert bare(promql_parser.parse("sum(slotstream_readings_total) / 2"), within=False) == ["slotstream_readings_total"]


def test_each_panel_says_what_it_tells_and_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert [panel["title"] for panel in PANELS if len(panel["description"]) < 20] == []
    assert {len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) for panel in PANELS if panel["type"] == "stat"} <= {2, 3}


def test_what_is_provisioned_fits_together() -> None:
    (source,) = yaml.safe_load((DEPLOY / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DEPLOY / "provisioning/dashboards/slotstream.yml").read_text())["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert variables == {"datasource", "namespace", "job", "instance"}
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}


def left_out(wanted: object, got: object, path: str = "") -> list[str]:
    """What of `wanted` is not, or not so, in `got`."""
    if isinstance(wanted, dict):
        parts = wanted.items()
        there = got if isinstance(got, dict) else {}
        return [p for key, part in parts for p in (left_out(part, there[key], f"{path}.{key}") if key in there else [f"{path}.{key}"])]
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return [path]
        return [problem for i, part in enumerate(wanted) for problem in left_out(part, got[i], f"{path}[{i}]")]
    return [] if wanted == got else [path]


def through_grafanas_types(board: dict) -> dict:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def test_grafanas_own_types_know_every_field_and_value() -> None:
    register_default_plugins()
    assert left_out(BOARD, through_grafanas_types(BOARD)) == []
    wrong = {**BOARD, "panles": [], "templating": {"list": [{"type": "query", "name": "job", "queri": "up"}]}}
    assert left_out(wrong, through_grafanas_types(wrong)) == [".templating.list[0].queri", ".panles"]
