"""deploy/prometheus: rules that ask only for what the service tells, and alerts of which each has its section in the manual.

What the rules answer to series of figures is tried by promtool: `make test-rules`.
"""

import re

import promql
import promql_parser
import pytest
import yaml
from places import ROOT

from processor.metrics import Metrics

DEPLOY = ROOT / "deploy" / "prometheus"
GROUPS = [group for path in sorted((DEPLOY / "rules").glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: promql.by(rule["expr"]) for rule in RULES if "record" in rule}
TESTS = [test for path in sorted((DEPLOY / "tests").glob("*.yml")) for test in yaml.safe_load(path.read_text())["tests"]]


def test_rules_ask_only_for_what_the_service_tells() -> None:
    assert len(RULES) > 20
    assert [problem for rule in RULES for problem in promql.unknown(rule["expr"], RECORDED)] == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("slotstream_lag_record > 0", "no metric slotstream_lag_record"),
        ("rate(slotstream_end_to_end_seconds[5m])", "no metric slotstream_end_to_end_seconds"),
        ("slotstream_lag_records{topic='a'}", "slotstream_lag_records has no label topic"),
        ("slotstream_dead_letters_total{error='bad'}", "slotstream_dead_letters_total has no error=bad"),
        ("slotstream_end_to_end_seconds_bucket{le='1'}", "slotstream_end_to_end_seconds_bucket has no le=1"),
        ("sum by (partition) (slotstream_ready)", "sum by (partition) (slotstream_ready): no label partition to sum by"),
        ("job:nothing:sum", "no metric job:nothing:sum"),
    ],
)
def test_what_the_service_does_not_tell_is_found(expression: str, problem: str) -> None:
    assert promql.unknown(expression, RECORDED) == [problem]


def test_what_is_no_promql_is_found() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        promql.unknown("rate(slotstream_readings_total)[5m] >", RECORDED)


def test_the_bounds_in_rules_are_written_as_metrics_writes_them() -> None:
    metrics = Metrics()
    metrics.observe("end_to_end_seconds", 0.5)
    assert 'slotstream_end_to_end_seconds_bucket{le="1.0"} 1.0' in metrics.render().decode()


def test_each_alert_is_complete() -> None:
    for name, rule in ALERTS.items():
        assert re.fullmatch(r"Slotstream[A-Z]\w+", name)
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbook_base }}}}docs/operations/alerts.md#{name.lower()}"
        assert not set(rule) - {"alert", "expr", "for", "labels", "annotations"}, name


def test_each_recorded_figure_is_used() -> None:
    dashboard = (ROOT / "deploy" / "grafana" / "dashboards" / "slotstream.json").read_text()
    used = set().union(*(promql.names(rule["expr"]) for rule in ALERTS.values()))
    assert [name for name in RECORDED if name not in used and name not in dashboard] == []


def test_each_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    tried = [(one["alertname"], bool(one["exp_alerts"])) for test in TESTS for one in test.get("alert_rule_test", ())]
    assert {name for name, fires in tried if fires} == set(ALERTS)
    assert {name for name, fires in tried if not fires} == set(ALERTS)


def test_the_series_that_the_rules_are_tried_with_are_the_services() -> None:
    written = [series["series"] for test in TESTS for series in test["input_series"]]
    for text in written:
        promql_parser.parse(text)
    assert [problem for text in written for problem in promql.unknown(text, RECORDED)] == []
