"""Diagnoses addresses: those in bootstrap.servers without a broker, and those that a broker advertises."""

import re
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.refusals.listener import NoListener, unreachable

SEE_NO_BROKER = "no-broker-answers"
SEE_ADVERTISED = "the-broker-advertises-an-address-that-does-not-work"
_OF_BROKER = re.compile(r"(?:^|//)(?P<host>[^/\s]+):(?P<port>\d+)/\d+: ")  # librdkafka's name of a broker; bootstrap servers have no number


def no_broker(found: Sequence[NoListener]) -> SlotstreamError:
    """The error if no server is a broker's listener. found: what is there instead, one for each address."""
    words = "; ".join(dict.fromkeys(one.words for one in found))
    if all(one.kind == "other" for one in found):
        return ConfigurationError(
            f"no broker answers: {words}",
            expected="the address of a Kafka broker's listener",
            do="set bootstrap.servers under kafka to the broker's host and its Kafka port",
            see=SEE_NO_BROKER,
        )
    do = "start the broker, or correct bootstrap.servers under kafka"
    if all(one.kind == "unresolved" for one in found):
        do = "correct the name in bootstrap.servers under kafka, or have it added to the DNS that this machine asks"
    return SlotstreamError(f"no broker answers: {words}", expected="an answer of a broker", do=do, see=SEE_NO_BROKER)


def sent_to(heard: Iterable[KafkaError]) -> list[tuple[str, int]]:
    """The addresses of brokers in the client's errors: they have a broker number, so a broker has advertised them."""
    found = [_OF_BROKER.search(error.str()) for error in heard]
    return [(match["host"].strip("[]"), int(match["port"])) for match in found if match is not None]


def advertised(servers: str, sent_to: Sequence[tuple[str, int]], asked: Sequence[tuple[str, int]]) -> tuple[SlotstreamError | None, bool]:
    """What is wrong with the advertised addresses, and whether none of them can be reached.

    servers: bootstrap.servers as configured; asked: its addresses, which are not probed again because one has just answered.
    """
    strange = [address for address in dict.fromkeys(sent_to) if address not in asked]
    problems = [(address, problem) for address in strange if (problem := unreachable(*address)) is not None]
    if not problems:
        return None, False
    (host, port), first = problems[0]
    reason = "which does not resolve" if first.kind == "unresolved" else f"but {first.words}"
    more = f"; the same holds for {len(problems) - 1} more of its addresses" if len(problems) > 1 else ""
    error = SlotstreamError(
        f"the broker at {servers} answers and sends clients to {host}:{port}, {reason} (advertised.listeners){more}",
        expected="advertised addresses that this machine can reach",
        do="correct advertised.listeners at the broker, take the listener that is meant for this network, or make the name resolve here",
        see=SEE_ADVERTISED,
    )
    return error, len(problems) == len(set(sent_to))
