"""Combines the probes of the addresses and the client's errors into one message about a broker that refuses this client."""

from collections.abc import Collection, Mapping, Sequence

from confluent_kafka import KafkaError

from processor.errors import SlotstreamError
from processor.kafka.refusals import addresses, certificates, logins
from processor.kafka.refusals.listener import Listener, NoListener, look
from processor.settings import addresses as addresses_in

LOOKED_AT_MAX = 3


def refusal(config: Mapping[str, str], heard: Sequence[KafkaError], *, ignoring: Collection[str] = ()) -> SlotstreamError | None:
    """Why a client with these properties cannot work; None if there is a broker and no problem was found.

    heard: the client's errors so far. The first broker found decides; if there is none, the addresses are the problem. ignoring: kinds of
    NoListener that may be temporary; if one of the addresses has such a kind, there is no problem to report.
    """
    servers = addresses_in(config["bootstrap.servers"])[:LOOKED_AT_MAX]
    missing = list[NoListener]()
    for host, port in servers:
        found = look(host, port)
        if isinstance(found, Listener):
            elsewhere, _ = addresses.advertised(config["bootstrap.servers"], addresses.sent_to(heard), servers)
            return _of_broker(config, host, port, found, heard) or elsewhere
        missing.append(found)
    if any(found.kind in ignoring for found in missing):
        return None
    return addresses.no_broker(missing)


def _of_broker(config: Mapping[str, str], host: str, port: int, found: Listener, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    address = f"{host}:{port}"
    return (
        logins.of_the_listener(config, address, found)
        or (certificates.of_the_broker(config, host, port) or certificates.of_the_client(config, address, heard) if found.tls else None)
        or logins.refused(config, address, heard)
    )
