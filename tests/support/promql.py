"""What a PromQL expression asks for, and what of it the service does not tell: for the tests of rules and dashboards."""

from collections.abc import Iterator

import promql_parser
from prometheus_client import PROCESS_COLLECTOR

from processor.metrics import CATALOGUE, PREFIX, Spec

# Labels that Prometheus gives a target, in Kubernetes too.
OF_TARGET = {"job", "instance", "namespace", "pod"}
OTHERS = {"up"} | {metric.name + ("_total" if metric.type == "counter" else "") for metric in PROCESS_COLLECTOR.collect()}


def series() -> dict[str, tuple[Spec, bool]]:
    """Every name that /metrics has of the catalogue, and whether it is a bucket's."""
    found = {}
    for spec in CATALOGUE:
        suffixes = ("_bucket", "_count", "_sum") if spec.kind == "histogram" else ("",)
        found |= {f"{PREFIX}{spec.name}{suffix}": (spec, suffix == "_bucket") for suffix in suffixes}
    return found


SERIES = series()


def unknown(expression: str, recorded: dict[str, set[str]]) -> list[str]:
    """What is asked for and not there. recorded: names that recording rules make, with their labels. Raises ValueError for no PromQL."""
    parsed = promql_parser.parse(expression)
    found = [problem for selector in _all(parsed, promql_parser.VectorSelector) for problem in _of_selector(selector, recorded)]
    for aggregate in _all(parsed, promql_parser.AggregateExpr):
        if aggregate.modifier is not None:
            there = OF_TARGET.union(*(_labels(selector.name, recorded) for selector in _all(aggregate.expr, promql_parser.VectorSelector)))
            found += [f"{expression}: no label {label} to sum by" for label in aggregate.modifier.labels if label not in there]
    return found


def names(expression: str) -> set[str]:
    return {selector.name for selector in _all(promql_parser.parse(expression), promql_parser.VectorSelector)}


def by(expression: str) -> set[str]:
    """The labels that its outermost aggregation leaves; of a quotient, those of its first term."""
    for aggregate in _all(promql_parser.parse(expression), promql_parser.AggregateExpr):
        return set(aggregate.modifier.labels) if aggregate.modifier else set()
    raise ValueError(f"{expression} sums nothing")


def _all(expression, kind: type) -> Iterator:
    found = []
    promql_parser.walk(expression, lambda node: found.append(node) if isinstance(node, kind) else None)
    return iter(found)


def _labels(name: str, recorded: dict[str, set[str]]) -> set[str]:
    if name in recorded:
        return recorded[name]
    if name not in SERIES:
        return set()
    spec, bucket = SERIES[name]
    return set(spec.labels) | ({"le"} if bucket else set())


def _of_selector(selector, recorded: dict[str, set[str]]) -> Iterator[str]:
    name = selector.name
    if name not in SERIES and name not in recorded and name not in OTHERS:
        yield f"no metric {name}"
        return
    there = _labels(name, recorded)
    for matcher in selector.matchers.matchers:
        if matcher.name not in there | OF_TARGET:
            yield f"{name} has no label {matcher.name}"
        elif name in SERIES and matcher.op == promql_parser.MatchOp.Equal:
            spec, _ = SERIES[name]
            known = [repr(float(bound)) for bound in spec.buckets] if matcher.name == "le" else spec.labels.get(matcher.name)
            if known and matcher.value not in known:
                yield f"{name} has no {matcher.name}={matcher.value}"
