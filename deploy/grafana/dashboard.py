"""Makes the dashboard of deploy/grafana/dashboards/slotstream.json: `python deploy/grafana/dashboard.py`.

Responsible for the place of each panel and for Grafana's JSON; what is shown stands in panels.py. The JSON is never edited: a test compares
it with this program's, and that every figure exists. Needs no Grafana and no library.
"""

import json
import sys
from pathlib import Path
from typing import Any

from panels import GREEN, ROWS, Panel, Query

FILE = Path(__file__).parent / "dashboards" / "slotstream.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    return {
        "uid": "slotstream",
        "title": "slotstream",
        "description": "Made by deploy/grafana/dashboard.py: change that, not this.",
        "tags": ["slotstream"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # one crosshair through all panels
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {"list": list(_variables())},
        "panels": list(_placed()),
    }


def _variables():
    yield {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}, "hide": 0}
    # Outside of Kubernetes there is no namespace: .* takes what has none.
    for name, of, every in (
        ("namespace", "", True),
        ("job", 'namespace=~"$namespace"', False),
        ("instance", 'namespace=~"$namespace", job=~"$job"', True),
    ):
        query = f"label_values(slotstream_ready{{{of}}}, {name})"
        yield {
            "type": "query",
            "name": name,
            "label": name,
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # with the time range: instances come and go
            "sort": 1,
            "multi": every,
            "includeAll": every,
            **({"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}} if every else {"current": {}}),
        }


def _placed():
    """Panels from left to right, a line full or as many as there are, each row of panels under its title."""
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": _place(0, y, COLUMNS, 1), "panels": []}
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            yield {"id": number, "gridPos": _place(x, y, panel.width, panel.height), **_panel(panel)}
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in panel.steps]},
    }
    if panel.kind == "stat":
        # A share of no records, and work without a pace.
        defaults["mappings"] = [{"type": "special", "options": {"match": "nan", "result": {"text": "idle", "color": GREEN}}}]
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": _lines(panel)}
    if panel.top is not None:
        defaults["max"] = panel.top
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(panel, query, chr(ord("A") + i)) for i, query in enumerate(panel.queries)],
        **({"transformations": _ONE_TABLE} if panel.kind == "table" else {}),
    }


def _lines(panel: Panel) -> dict[str, Any]:
    lines: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 30 if panel.stacked else 5, "showPoints": "never"}
    if panel.stacked:
        lines["stacking"] = {"mode": "normal", "group": "A"}
    if len(panel.steps) > 1:
        lines["thresholdsStyle"] = {"mode": "dashed"}
    return lines


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "timeseries": {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True},
}


# The answers to two questions side by side, without the columns that say only when, and that it is so.
_ONE_TABLE: list[dict[str, Any]] = [
    {"id": "merge", "options": {}},
    {"id": "organize", "options": {"excludeByName": {"Time": True, "Value #A": True, "Value #B": True}}},
]


def _target(panel: Panel, query: Query, ref: str) -> dict[str, Any]:
    target = {"refId": ref, "datasource": SOURCE, "expr": query.expression, "legendFormat": query.legend or "__auto"}
    if panel.kind == "timeseries":
        return target | {"range": True}
    return target | {"instant": True} | ({"format": "table"} if panel.kind == "table" else {})


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name}\n")
