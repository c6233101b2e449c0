"""GET /sensors of two instances on a real Kafka: each tells of its own sensors as they were published, and names the other."""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from harness import L, Service, Topics, save_model
from waiting import wait_for

OPTIONS = (
    "--http.sensors=true",
    "--output.residual=true",
    "--slots=3",
    "--input.scale={mean: [1, 2, 3], std: 2}",
    "--output.scale={mean: [1, 2, 3], std: 2}",
)


def ask(service: Service, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(service.url + path, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_instances_tell_of_their_own_sensors_and_of_each_other(kafka, unique, tmp_path):
    model = save_model(tmp_path / "model.keras", L.LSTM(8, return_sequences=True), L.LSTM(4), L.Dense(3))
    topics = Topics(kafka.bootstrap, unique("sensors"), partitions=2)
    keys = [b"a", b"b/c", b"\xff\x00", b"d", b"e"]
    values = [json.dumps({"values": [i / 10, 1.0, -i]}).encode() for i in range(20)]
    now_ms = int(time.time() * 1000)
    topics.produce([(p, key, value, now_ms + i, ()) for i, value in enumerate(values) for p in (0, 1) for key in keys])
    pair = [Service(topics, model, tmp_path, *OPTIONS, instance=name) for name in ("one", "two")]
    with pair[0] as one, pair[1] as two:
        wait_for(lambda: [len(owned(service)) for service in (one, two)] == [1, 1], "a partition each", 200)
        wait_for(lambda: len(topics.answers()) == 200, "all predictions")
        published = {(p, answer["sensor"]): answer for (p, _), answer in sorted(topics.answers().items())}
        for service, other in ((one, two), (two, one)):
            (partition,) = owned(service)
            for key in keys:
                status, told = ask(service, f"/sensors/{quote_from_bytes(key, safe='')}")
                assert (status, told["partition"], told["steps"]) == (200, partition, 20)
                if told["last"] is not None:  # the rest were restored, not read
                    last = published[partition, told["sensor"]]
                    assert np.float32(list(told["last"]["prediction"].values())).tolist() == last["prediction"]
                    assert (told["last"]["offset"], np.float32(told["last"]["residual"])) == (last["offset"], np.float32(last["residual"]))
                    assert told["last"]["reading"] == {"0": 1.9, "1": 1.0, "2": -19.0}
                assert [(part["type"], part["state"], part["width"]) for part in told["state"]] == [
                    ("LSTM", "h", 8),
                    ("LSTM", "c", 8),
                    ("LSTM", "h", 4),
                    ("LSTM", "c", 4),
                ]
                assert all(part["norm"] > 0 for part in told["state"])
            status, told = ask(service, f"/sensors/nobody?partition={1 - partition}")
            owners = [(owner["instance"], owner["partitions"]) for owner in told["instances"]]
            assert (status, owners) == (404, [(other.instance, [1 - partition])])


def owned(service: Service) -> list[int]:
    """The partitions that it has, once they are live."""
    status = service.get("/status.json")
    return [row["partition"] for row in json.loads(status[1])["partitions"] if row["state"] == "live"] if status else []
