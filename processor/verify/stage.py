"""What a verification stands on: a folder, a disk, a broker, a proxy, topics, and the settings of each phase.

Responsible for making them and for leaving nothing behind, on somebody else's broker neither: only names of this run's own are made and
removed. Not for instances, nor for what happens to anything.
"""

import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.clients import admin_client, feed_producer
from processor.kafka.create_topics import init
from processor.kafka.topics import describe_input
from processor.settings import Settings, kafka_key, load_settings
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.kafka_cluster import KafkaCluster
from processor.testbed.kafka_jars import VERSION
from processor.testbed.own_folder import OwnFolder
from processor.testbed.patience import patience_s
from processor.testbed.ports import free_port, free_ports
from processor.verify import links
from processor.verify.disk import Disk
from processor.verify.links import Links
from processor.verify.proxy import Proxy, Route
from processor.verify.site import Broker

SESSION_MS = 6000
PRODUCE_MS = 600_000
CHECKPOINT_INTERVAL = "1s"
# Both are scaled by the load of the machine.
ASK_S = 20.0
GROUP_GONE_S = 30.0


class Stage:
    """model: the file that is served. config, words: the user's settings, under what a verification decides itself. brokers: 1, or as
    many as a cluster has. Raises ConfigurationError for a cluster where the user names a broker."""

    def __init__(self, model: Path, config: Path | None, words: Sequence[str], partitions: int, brokers: int = 1) -> None:
        if brokers > 1 and _names_broker(words):
            raise ConfigurationError(
                f"found --brokers {brokers} and a broker of yours", expected="one of both", do="leave --brokers or bootstrap.servers out"
            )
        self._config, self._words, self._model, self._brokers = config, list(words), model, brokers
        self.partitions = partitions
        self._name = f"slotstream-verify-{secrets.token_hex(4)}"
        self._made: list[Settings] = []
        self._keep = False
        self._stack = ExitStack()
        self._own_folder = OwnFolder("verify")
        self.folder = self._own_folder.path
        self.checkpoints = self.folder / "checkpoints"
        self.broker: Broker | None = None
        self.links: Links | None = None
        self.proxy: Proxy | None = None
        self.disk: Disk | None = None
        self.missing: dict[str, str] = {}  # what faults may need and is not there, and why

    @property
    def stores(self) -> list[str]:
        """Of the phases: both, or the one that the user names."""
        wanted = self._load([]).checkpoint.store
        return ["topic", "directory"] if wanted == "auto" else [wanted]

    def build(self) -> None:
        """Call it before any thread is started. Raises SlotstreamError."""
        self._config = self._config or self._no_settings()
        self.checkpoints.mkdir()
        try:
            self.disk = Disk(self.checkpoints)
        except OSError as error:
            self.missing["disk"] = f"no right to mount a small disk ({error.strerror})"
        if _names_broker(self._words):
            self.missing |= dict.fromkeys(("broker", "proxy", "cluster", "links"), "the broker is not ours to break")
        elif self._brokers == 1:
            self.missing |= dict.fromkeys(("cluster", "links"), "there is one broker: see --brokers")
            beside, proxied = free_ports(2)
            self._start(_broker(self.folder / "kafka", beside, proxied), Route(proxied, beside))
        else:
            cluster = KafkaCluster(self.folder / "kafka", brokers=self._brokers, separable=links.POSSIBLE, beside=True)
            if links.POSSIBLE:
                self.links = self._stack.enter_context(Links(cluster))
            else:
                self.missing["links"] = "no loopback addresses for it here (Linux has them)"
            self._start(cluster, *(Route(ports.sent_on, ports.beside) for ports in cluster.ports.values()))

    def _start(self, broker: Broker, *routes: Route) -> None:
        self.broker = broker
        self._stack.callback(broker.kill)  # what it holds is thrown away, and a cluster takes its time to end in good order
        broker.start()
        self.proxy = self._stack.enter_context(Proxy(*routes))

    def keep(self) -> None:
        """Something failed: folder and topics are left for whoever looks for the reason."""
        self._keep = True
        self._own_folder.keep()

    def close(self) -> None:
        if self._keep and self.disk is not None:
            self.disk.free()
            shutil.copytree(self.checkpoints, self.folder / "checkpoints-kept")  # the disk goes with this process
        if not self._keep and self.broker is None:
            for settings in self._made:
                _remove(settings)
        self._stack.close()
        if not self._keep and self.disk is not None:
            self.disk.close()
        self._own_folder.close()

    def create_topics(self, store: str) -> Settings:
        """A phase's settings, when its topics are there."""
        settings = self.settings(store)
        self._made.append(settings)
        init(settings, self.partitions, None)
        return settings

    def settings(self, store: str, *more: str) -> Settings:
        return self._load([*self._own(store), *more])

    def producer(self, store: str) -> Producer:
        """Of the input. Patient: a broker that is away is no reason to give up."""
        settings = self.settings(store, f"--kafka=message.timeout.ms={PRODUCE_MS}")
        return feed_producer(settings, record_bytes_max=describe_input(settings).bytes_max)

    def words(self, store: str) -> list[str]:
        """The command line of an instance in this phase, but for what is its own."""
        return ["--config", str(self._config), *self._words, *self._own(store)]

    @property
    def through_proxy(self) -> list[str]:
        if self.proxy is None:
            return []
        return [f"--kafka=bootstrap.servers={','.join(f'{route.host}:{route.port}' for route in self.proxy.routes)}"]

    @property
    def place(self) -> str:
        """Which broker, for people."""
        if self.broker is not None:
            brokers = f"{self._brokers} brokers of " if self._brokers > 1 else ""
            return f"{brokers}Apache Kafka {VERSION} at {self.broker.bootstrap}, in {self.folder}"
        return f"{self._load([]).kafka_config()['bootstrap.servers']}, topics {self._name}.*"

    def _own(self, store: str) -> list[str]:
        here = [f"--kafka=bootstrap.servers={self.broker.bootstrap}"] if self.broker is not None else []
        base = f"{self._name}.{store}"
        return [
            *here,
            f"--kafka=session.timeout.ms={SESSION_MS}",
            f"--input.topic={self._name}.readings",
            f"--output.topic={base}.predictions",
            f"--dead_letter.topic={base}.dead-letter",
            f"--group={base}",
            f"--checkpoint.topic={base}.checkpoints",
            *([f"--alarm.topic={base}.alarms"] if self._load([]).alarm.on else []),
            f"--checkpoint.store={store}",
            f"--checkpoint.path={self.checkpoints}",
            f"--checkpoint.interval={CHECKPOINT_INTERVAL}",
            f"--model.path={self._model.resolve()}",
            "--input.start=earliest",
            "--dead_letter.max_ratio=1",
            "--delivery=exactly_once",
            "--http.host=127.0.0.1",
            "--http.port=0",
            "--log.level=info",
            "--log.format=json",
        ]

    def _load(self, own: list[str]) -> Settings:
        return load_settings(self._config, [*self._words, *own], os.environ)

    def _no_settings(self) -> Path:
        """A file of settings that says nothing: the one in the user's folder is not meant for this."""
        path = self.folder / "settings.yaml"
        path.write_text("")
        return path


def _names_broker(words: Sequence[str]) -> bool:
    """The command line has --kafka bootstrap.servers=..."""
    given = [word.removeprefix("--kafka=").partition("=")[0] for word in words]
    return any(kafka_key(key) == "bootstrap.servers" for key in given)


def _broker(folder: Path, beside: int, proxied: int) -> EmbeddedKafka:
    """One with a second listener, at port `beside`, whose clients are told to come to port `proxied`."""
    port, controller = free_port(), free_port()
    here = "127.0.0.1"
    return EmbeddedKafka(
        folder,
        port=port,
        properties={
            "listeners": f"PLAINTEXT://{here}:{port},CONTROLLER://{here}:{controller},PROXIED://{here}:{beside}",
            "advertised.listeners": f"PLAINTEXT://{here}:{port},PROXIED://{here}:{proxied}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
            "controller.quorum.bootstrap.servers": f"{here}:{controller}",
        },
    )


def _remove(settings: Settings) -> None:
    """A phase's topics and its group, whose killed members stay in it for the session. Raises SlotstreamError if one does not go."""
    client, ask_s = admin_client(settings), patience_s(ASK_S)
    topics = [settings.input.topic, settings.output.topic, settings.dead_letter_topic, settings.checkpoint_topic, settings.alarm_topic]
    for topic, future in client.delete_topics([topic for topic in topics if topic], request_timeout=ask_s).items():
        _gone(topic, future)
    until_s = time.monotonic() + patience_s(GROUP_GONE_S)
    while True:
        try:
            _gone(settings.group_id, client.delete_consumer_groups([settings.group_id], request_timeout=ask_s)[settings.group_id])
        except SlotstreamError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.5)
        else:
            return


def _gone(name: str, future: Any) -> None:
    try:
        future.result(patience_s(ASK_S))
    except KafkaException as error:
        reason = error.args[0]
        if reason.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND):
            raise SlotstreamError(f"{name} could not be deleted ({reason.str()})", expected="it to go", do="delete it by hand") from error
