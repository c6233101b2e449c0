"""Diagnoses logins: a refused password or token, or a protocol or mechanism that the listener does not support."""

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.refusals.listener import Listener
from processor.logs import plain

SEE = "the-broker-does-not-let-the-client-in"


def of_the_listener(config: Mapping[str, str], address: str, found: Listener) -> SlotstreamError | None:
    protocol = config.get("security.protocol", "plaintext").upper()
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL")
    wanted_sasl = sasl if found.sasl is None else found.sasl
    fits = ("SASL_" if wanted_sasl else "") + ("SSL" if found.tls else "PLAINTEXT")
    if tls != found.tls or sasl != wanted_sasl:
        how = "TLS" if found.tls else "no TLS"
        login = "" if found.sasl is None else " and asks for no login"
        if found.mechanisms:
            login = f" and asks for a login ({', '.join(found.mechanisms)})"
        return ConfigurationError(
            f"the broker at {address} speaks {how}{login}, and security.protocol is {protocol}",
            expected="the protocol of the listener at that port",
            do=f"set security.protocol under kafka to {fits}, or take the port of the broker's {protocol} listener",
            see=SEE,
        )
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", "GSSAPI"))
    if sasl and found.mechanisms and mechanism not in found.mechanisms:
        return ConfigurationError(
            f"the broker at {address} takes logins by {', '.join(found.mechanisms)}, and sasl.mechanism is {mechanism}",
            expected="one of the broker's mechanisms",
            do="set sasl.mechanism under kafka to one of them, or enable it at the broker (sasl.enabled.mechanisms)",
            see=SEE,
        )
    return None


def refused(config: Mapping[str, str], address: str, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    said = next((error.str() for error in reversed(heard) if error.code() == KafkaError._AUTHENTICATION), None)
    if said is None:
        return None
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", ""))
    reason = plain(said).rpartition("bootstrap: ")[2]
    if mechanism == "OAUTHBEARER":
        return ConfigurationError(
            f"the broker at {address} was given no token that it takes ({reason})",
            expected="a token that the broker's OAUTHBEARER listener accepts",
            do="look at the sasl.oauthbearer properties under kafka, and at what the token's issuer says",
            see=SEE,
        )
    return ConfigurationError(
        f"the broker at {address} refuses the login of {config.get('sasl.username')} by {mechanism} ({reason})",
        expected="a user and a password that the broker knows for this mechanism",
        do="correct sasl.username and sasl.password under kafka, or have the user created at the broker",
        see=SEE,
    )
