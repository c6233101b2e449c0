"""Makes the rules of deploy/prometheus/rules one object for the Prometheus operator: `python deploy/prometheus/prometheus_rule.py`.

Writes deploy/kubernetes/components/monitoring/prometheusrule.yaml, since kustomize takes no file from outside of its folder; a test
tells when it is not current. Needs PyYAML.
"""

import sys
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
FILE = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
HEAD = "# made by `python deploy/prometheus/prometheus_rule.py` from deploy/prometheus/rules, which say why: change those, not this file\n"


def text() -> str:
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]
    groups = [group for file in files for group in file["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "slotstream", "labels": {"app.kubernetes.io/name": "slotstream"}},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.safe_dump(rule, sort_keys=False, width=140)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name}\n")
