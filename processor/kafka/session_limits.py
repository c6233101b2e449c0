"""The broker's limits for a group session; unknown to users who may not read the broker's settings, as most may not."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from processor.kafka.clients import admin_client
from processor.kafka.findings import SessionLimits
from processor.settings import Settings

ASK_S = 5.0
_NEVER_S = 3_000.0  # cancelled by closing the client (kafka.group explains why)


def session_limits(settings: Settings) -> SessionLimits | None:
    client = admin_client(settings, lambda _: None)
    try:
        brokers = client.list_topics(timeout=ASK_S).brokers
        resource = ConfigResource(ResourceType.BROKER, str(min(brokers)))
        configs = client.describe_configs([resource], request_timeout=_NEVER_S)[resource].result(ASK_S)
        return SessionLimits(*(int(configs[f"group.{end}.session.timeout.ms"].value) for end in ("min", "max")))
    except (KafkaException, TimeoutError, KeyError, TypeError, ValueError):
        return None
