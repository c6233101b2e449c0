"""The one message about a broker that does not let this client work, from what is found at its addresses and what the client heard."""

from collections.abc import Collection, Mapping, Sequence

from confluent_kafka import KafkaError

from processor.errors import SlotstreamError
from processor.kafka.refusals import addresses, certificates, logins
from processor.kafka.refusals.listener import Listener, NoListener, look
from processor.settings import addresses as addresses_in

LOOKED_AT_MAX = 3


def refusal(config: Mapping[str, str], heard: Sequence[KafkaError], *, ignoring: Collection[str] = ()) -> SlotstreamError | None:
    """Why a client with these properties cannot work; None where a broker is there and nothing is found against it.

    heard: the client's errors so far. The first broker decides; without one the addresses are what is wrong. ignoring: kinds of
    NoListener that may pass; nothing is wrong while one of the addresses is of such a kind.
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
