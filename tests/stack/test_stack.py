"""The whole stack: that it comes up, what it shows, and that stops, kills and scaling lose nothing and repeat nothing.

The tests go on one after another with one stack whose plant never stops, until the last but two.
"""

import json
from pathlib import Path

import pytest
import yaml
from stack import IMAGE, PROJECT, ROOT, Stack, docker, health, wait_for

GB = 1 << 30


@pytest.fixture
def whole(stack: Stack):
    """Afterwards each reading that is there by then has exactly one answer."""
    yield
    said = stack.referee("count")
    assert said["readings"] > 0
    assert (said["lost"], said["twice"]) == (0, 0), said


def owned(stack: Stack, instances: int) -> list[int]:
    """How many partitions each instance has."""
    return [len(stack.series("lag_records", index)) for index in range(1, instances + 1)]


def test_everything_is_up_and_healthy(stack: Stack, whole: None) -> None:
    for service in stack.services():
        for container in stack.containers(service):
            if service == "init":
                assert (container["State"]["Status"], container["State"]["ExitCode"]) == ("exited", 0)
            else:
                assert container["State"]["Status"] == "running"
                assert health(container) == ("none" if service == "plant" else "healthy")


def test_only_pages_are_published_and_to_this_machine_only(stack: Stack) -> None:
    published = {}
    for service in stack.services():
        for container in stack.containers(service):
            bound = [(port, one["HostIp"]) for port, all_of in container["HostConfig"]["PortBindings"].items() for one in all_of]
            published[service] = bound
    assert published.pop("service") == [("8080/tcp", "127.0.0.1")]
    assert published.pop("prometheus") == [("9090/tcp", "127.0.0.1")]
    assert {service: bound for service, bound in published.items() if bound} == {}


def test_our_containers_can_do_little(stack: Stack) -> None:
    program = """
import json, os
def writable(path):
    try:
        open(path + "/x", "w").close()
        return True
    except OSError:
        return False
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
print(json.dumps([os.getuid(), [p for p in ("/", "/etc", "/opt/slotstream", "/model", "/home") if writable(p)], writable("/tmp"),
                  int(status["CapEff"], 16), status["NoNewPrivs"].strip()]))
"""
    for service in ("service", "plant"):
        found = stack.compose("exec", "-T", service, "python", "-c", program)
        assert json.loads(found.stdout) == [10001, [], True, 0, "1"]


def test_every_container_has_a_memory_limit_and_together_they_fit_a_laptop(stack: Stack) -> None:
    services = yaml.safe_load(stack.compose("config").stdout)["services"]
    limits = {name: int(service["mem_limit"]) for name, service in services.items()}
    assert sum(limits.values()) <= 4 * GB
    for service in stack.services():
        assert all(one["HostConfig"]["Memory"] == limits[service] for one in stack.containers(service))
        assert all(not one["State"]["OOMKilled"] for one in stack.containers(service))


def test_predictions_flow(stack: Stack) -> None:
    before = stack.metric("predictions_total")
    wait_for(lambda: stack.metric("predictions_total") > before + 500, "500 more predictions")


def test_prometheus_scrapes_the_service_and_its_rules_load(stack: Stack) -> None:
    def up() -> list[str]:
        return [target["labels"]["job"] for target in stack.prometheus("targets")["activeTargets"] if target["health"] == "up"]

    wait_for(lambda: up() == ["slotstream"], lambda: str(stack.prometheus("targets")))
    wait_for(lambda: stack.prometheus("query?query=slotstream_ready")["result"], "a figure of the service in Prometheus")
    files = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    wanted = {group["name"] for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]}
    assert files
    assert {group["name"] for group in stack.prometheus("rules")["groups"]} == wanted

    def evaluated() -> bool:
        return all(rule["health"] == "ok" for group in stack.prometheus("rules")["groups"] for rule in group["rules"])

    wait_for(evaluated, lambda: str(stack.prometheus("rules")))


def test_check_finds_nothing_wrong(stack: Stack) -> None:
    assert "BAD" not in stack.compose("exec", "-T", "service", "slotstream", "check").stdout


def test_sigterm_ends_it_with_0_and_nothing_is_lost(stack: Stack, whole: None) -> None:
    stack.compose("stop", "service")
    (stopped,) = stack.containers("service")
    assert (stopped["State"]["Status"], stopped["State"]["ExitCode"]) == ("exited", 0)
    assert [event["event"] for event in stack.events(stopped)][-1] == "stopped"
    stack.compose("start", "service")
    (started,) = stack.wait_healthy("service")
    # The container's host name is its name in the group, and it has kept that.
    assert started["Config"]["Hostname"] == stopped["Config"]["Hostname"]
    assert sum(owned(stack, 1)) == 8


def test_after_kill_9_it_comes_back_by_itself_with_nothing_lost_or_repeated(stack: Stack, whole: None) -> None:
    (before,) = stack.containers("service")
    # From the engine's own process namespace: within the container nobody can kill the first process, and `docker kill` tells the
    # engine that it is wanted, so that it does not start the container again.
    program = f"import os; os.kill({before['State']['Pid']}, 9)"
    docker("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", IMAGE, "-c", program)
    wait_for(lambda: stack.containers("service")[0]["RestartCount"] == before["RestartCount"] + 1, "the restart")
    stack.wait_healthy("service")
    assert sum(owned(stack, 1)) == 8


def test_three_instances_share_the_partitions(stack: Stack, whole: None) -> None:
    stack.up("--scale", "service=3")
    stack.wait_healthy("service", 3)
    wait_for(lambda: sorted(owned(stack, 3)) == [2, 3, 3], lambda: f"a fair share, not {owned(stack, 3)}")

    def scraped() -> int:
        return sum(target["health"] == "up" for target in stack.prometheus("targets")["activeTargets"])

    wait_for(lambda: scraped() == 3, "three instances in Prometheus")


def test_one_of_three_may_be_killed(stack: Stack, whole: None) -> None:
    victim = stack.containers("service")[1]
    docker("kill", "--signal", "KILL", victim["Id"])
    docker("start", victim["Id"])
    stack.wait_healthy("service", 3)
    wait_for(lambda: sum(owned(stack, 3)) == 8 and min(owned(stack, 3)) > 0, lambda: f"all partitions, not {owned(stack, 3)}")


def test_back_to_one_and_a_new_container_with_another_name(stack: Stack, whole: None) -> None:
    stack.up("--scale", "service=1")
    wait_for(lambda: sum(owned(stack, 1)) == 8, lambda: f"all partitions, not {owned(stack, 1)}")
    (before,) = stack.containers("service")
    stack.up("--force-recreate", "--no-deps", only="service")
    (after,) = stack.wait_healthy("service")
    assert after["Config"]["Hostname"] != before["Config"]["Hostname"]
    # What stopped has left the group, so that nobody waits for its session to end.
    wait_for(lambda: sum(owned(stack, 1)) == 8, lambda: f"all partitions, not {owned(stack, 1)}", timeout_s=30.0)


def test_kafka_may_restart(stack: Stack, whole: None) -> None:
    stack.compose("restart", "kafka")
    stack.wait_healthy("kafka")
    stack.wait_healthy("service")
    before = stack.metric("predictions_total")
    wait_for(lambda: stack.metric("predictions_total") > before + 500, "predictions after the broker's restart")


def test_at_the_end_every_bit_is_what_the_model_gives(stack: Stack) -> None:
    stack.compose("stop", "plant")
    (plant,) = stack.containers("plant")
    assert plant["State"]["ExitCode"] == 0
    acknowledged = json.loads(docker("logs", plant["Id"]).stdout.splitlines()[-1])
    assert acknowledged["failed"] == 0
    said = stack.referee("count")
    assert (said["lost"], said["twice"]) == (0, 0)
    assert said["readings"] >= acknowledged["acknowledged"]
    exact = stack.referee("exact")
    assert exact["same"] == exact["answers"] == exact["readings"] == said["readings"]


def test_a_model_that_is_not_there_is_one_clear_message(stack: Stack, tmp_path: Path) -> None:
    found = stack.compose("up", "--no-build", "--no-deps", "service", check=False, MODEL=str(tmp_path / "my.keras"))
    assert found.returncode != 0
    assert "my.keras" in found.stderr
    assert "exist" in found.stderr


def test_an_image_without_a_model_says_what_to_do(stack: Stack) -> None:
    network = ("--network", f"{PROJECT}_default", "-e", "SLOTSTREAM_KAFKA__BOOTSTRAP_SERVERS=kafka:9092")
    found = docker("run", "--rm", *network, IMAGE, check=False)
    assert found.returncode == 2
    told = [line for line in found.stderr.splitlines() if line.startswith("slotstream: ")]
    assert len(told) == 1
    assert "/model/model.keras" in told[0]
    assert "To do: " in told[0]
