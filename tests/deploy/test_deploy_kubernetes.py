"""deploy/kubernetes: every object fits its schema and the others, and the settings in it are settings that the service takes.

Built as kustomize builds it (tests/kustomize.py). No cluster has seen it here.
"""

import base64
import importlib.util
from pathlib import Path
from typing import Any

import kubernetes_validate
import kustomize
import pytest
import yaml
from places import ROOT

from processor.loop.rebalance import REVOKE_CHECKPOINT_S
from processor.settings import ENV_CONFIG, ENV_PREFIX, Settings, load_settings

DEPLOY = ROOT / "deploy" / "kubernetes"
FOLDERS = sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))
BUILT = {"base": kustomize.build(DEPLOY / "base"), "example": kustomize.build(DEPLOY / "overlays" / "example")}
SCHEMAS = "1.37"  # the newest that the library has; its older ones know every field that is used here, too
OF_OPERATORS = {"PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}  # whose schemas are with the operators
NAME = "app.kubernetes.io/name"


@pytest.fixture(params=BUILT)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return BUILT[request.param]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (one,) = of_kind(objects, kind)
    return one


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["spec"]["template"] for one in objects if one["kind"] in ("StatefulSet", "Job")]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def environment(container: dict[str, Any], objects: list[dict[str, Any]]) -> dict[str, str]:
    """As the container sees it."""
    found = {}
    for variable in container["env"]:
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif "fieldRef" in variable["valueFrom"]:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            found[variable["name"]] = "slotstream-0"
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            (secret,) = [one for one in of_kind(objects, "Secret") if one["metadata"]["name"] == reference["name"]]
            found[variable["name"]] = secret["stringData"][reference["key"]]
    return found


def settings(objects: list[dict[str, Any]], kind: str, tmp_path: Path) -> Settings:
    """What the service makes of the container's environment and files; files are looked for below tmp_path."""
    pod = only(objects, kind)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = environment(container, objects)
    for mount in container["volumeMounts"]:
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        (tmp_path / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            (source,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"] == volume["configMap"]["name"]]
            content = source["data"]
        elif "secret" in volume:
            (source,) = [one for one in of_kind(objects, "Secret") if one["metadata"]["name"] == volume["secret"]["secretName"]]
            content = {item["path"]: source["stringData"][item["key"]] for item in volume["secret"]["items"]}
        else:
            content = {}
        for name, text in content.items():
            (tmp_path / mount["mountPath"].lstrip("/") / name).write_text(text)
    config = tmp_path / given.pop(ENV_CONFIG).lstrip("/")
    assert config.is_file()
    rebased = {name: value.replace("{file: /", f"{{file: {tmp_path}/") for name, value in given.items()}
    return load_settings(config, [], rebased)


def test_every_file_is_named_and_every_name_is_a_file() -> None:
    assert len(FOLDERS) > 4
    for folder in FOLDERS:
        assert kustomize.files(folder) == {path.name for path in folder.iterdir()} - {"kustomization.yaml"}, folder


def test_every_folder_is_used_by_the_example() -> None:
    content = kustomize.kustomization(DEPLOY / "overlays" / "example")
    used = {(DEPLOY / "overlays" / "example" / name).resolve() for name in [*content["resources"], *content["components"]]}
    assert {folder.resolve() for folder in FOLDERS} - used == {(DEPLOY / "overlays" / "example").resolve()}


def test_every_object_fits_its_schema(objects: list[dict[str, Any]]) -> None:
    for one in objects:
        if one["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(one, SCHEMAS, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StatefulSet", ("spec", "template", "spec", "containers", 0, "livenesProbe"), {}),
        ("StatefulSet", ("spec", "replicas"), "three"),
        ("NetworkPolicy", ("spec", "ingress", 0, "port"), []),
        ("PodDisruptionBudget", ("spec", "unhealthyPodEviction"), "AlwaysAllow"),
    ],
)
def test_a_field_that_is_none_is_found(kind: str, path: tuple[Any, ...], value: Any) -> None:
    one = only(kustomize.build(DEPLOY / "base"), kind)
    within = one
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, SCHEMAS, strict=True)


def test_pods_keep_to_the_restricted_profile(objects: list[dict[str, Any]]) -> None:
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {kind for volume in spec["volumes"] for kind in volume} - {"name"} <= {"configMap", "secret", "emptyDir"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert "cpu" in container["resources"]["requests"]


def test_the_image_runs_as_the_user_of_the_pods_and_looks_for_the_model_where_the_manual_puts_it() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001:10001" in dockerfile
    assert "SLOTSTREAM_MODEL__PATH=/model/model.keras" in dockerfile
    assert "COPY model.keras /model/model.keras" in (ROOT / "docs/operations/kubernetes.md").read_text(encoding="utf-8")


def test_whoever_selects_pods_selects_those_of_the_service_alone(objects: list[dict[str, Any]]) -> None:
    workload = only(objects, "StatefulSet")
    service = workload["spec"]["template"]["metadata"]["labels"]
    others = [job["spec"]["template"]["metadata"]["labels"] for job in of_kind(objects, "Job")]
    spec = workload["spec"]
    selectors = [spec["selector"]["matchLabels"], only(objects, "Service")["spec"]["selector"]]
    selectors += [one["labelSelector"]["matchLabels"] for one in spec["template"]["spec"]["topologySpreadConstraints"]]
    selectors += [only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "PodMonitor")]
    for selector in selectors:
        assert selects(selector, service)
        assert not [labels for labels in others if selects(selector, labels)]
    policy = only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert all(selects(policy, labels) for labels in [service, *others])


def test_names_and_ports_agree(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    workload, service = only(objects, "StatefulSet"), only(objects, "Service")
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == settings(objects, "StatefulSet", tmp_path).http.port
    assert [one["targetPort"] for one in service["spec"]["ports"]] == [port["name"]]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {one["port"] for one in probes.values()} == {port["name"]}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert only(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    accounts = {pod["spec"]["serviceAccountName"] for pod in pods(objects)}
    assert accounts == {only(objects, "ServiceAccount")["metadata"]["name"]}
    for pod in pods(objects):
        mounted = {mount["name"] for one in pod["spec"]["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_settings_are_taken_and_fit_the_pods(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    workload = only(objects, "StatefulSet")["spec"]
    found = settings(objects, "StatefulSet", tmp_path)
    assert found.instance == "slotstream-0"
    assert found.checkpoint_store == "topic"  # or it would need a volume
    # Names come back, but where their number changes by itself.
    assert found.leave_on_stop is bool(of_kind(objects, "ScaledObject"))
    assert workload["template"]["spec"]["terminationGracePeriodSeconds"] >= found.drain_timeout + REVOKE_CHECKPOINT_S + 15
    for pod in pods(objects):
        for variable in environment(pod["spec"]["containers"][0], objects):
            assert variable.startswith(ENV_PREFIX)


def test_the_job_creates_the_topics_of_the_service(tmp_path: Path) -> None:
    example = BUILT["example"]
    job, service = (settings(example, kind, tmp_path / kind) for kind in ("Job", "StatefulSet"))
    assert job.model_copy(update={"instance": "slotstream-0", "leave_on_stop": True}) == service
    arguments = only(example, "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["init", "--partitions"]
    assert only(example, "ScaledObject")["spec"]["maxReplicaCount"] == int(arguments[2])


def test_the_password_is_in_a_file_and_nowhere_else(tmp_path: Path) -> None:
    example = BUILT["example"]
    password = only(example, "Secret")["stringData"]["password"]
    found = settings(example, "StatefulSet", tmp_path)
    assert found.kafka_config()["sasl.password"] == password
    assert found.kafka_config()["ssl.ca.location"] == "/run/secrets/kafka/ca.crt"
    elsewhere = yaml.safe_dump([one for one in example if one["kind"] != "Secret"])
    assert password not in elsewhere
    assert base64.b64encode(password.encode()).decode() not in elsewhere


def test_keda_asks_for_the_lag_that_the_service_has(tmp_path: Path) -> None:
    example = BUILT["example"]
    scaled = only(example, "ScaledObject")["spec"]
    workload = only(example, "StatefulSet")
    assert (scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"]) == (workload["kind"], workload["metadata"]["name"])
    assert "replicas" not in workload["spec"]
    assert only(BUILT["base"], "StatefulSet")["spec"]["replicas"] > 1
    (trigger,) = scaled["triggers"]
    found = settings(example, "StatefulSet", tmp_path)
    asked = trigger["metadata"]
    assert asked["bootstrapServers"] == found.kafka_config()["bootstrap.servers"]
    assert (asked["consumerGroup"], asked["topic"], asked["offsetResetPolicy"]) == (found.group_id, found.input.topic, found.input.start)
    authentication = only(example, "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    secret = only(example, "Secret")
    for reference in authentication["spec"]["secretTargetRef"]:
        assert reference["name"] == secret["metadata"]["name"]
        assert reference["key"] in secret["stringData"]
    base = yaml.safe_load((DEPLOY / "components/keda/scaledobject.yaml").read_text())["spec"]["triggers"][0]["metadata"]
    assert base["bootstrapServers"] == settings(BUILT["base"], "StatefulSet", tmp_path / "base").kafka_config()["bootstrap.servers"]


def test_what_the_prometheus_operator_is_told(tmp_path: Path) -> None:
    monitor = only(BUILT["example"], "PodMonitor")
    pod = only(BUILT["example"], "StatefulSet")["spec"]["template"]
    assert pod["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "slotstream"  # the job that the rules know
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    spec = importlib.util.spec_from_file_location("prometheus_rule", ROOT / "deploy" / "prometheus" / "prometheus_rule.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.FILE.read_text(encoding="utf-8") == program.text(), "run `python deploy/prometheus/prometheus_rule.py`"
