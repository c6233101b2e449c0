"""What makes the embedded Kafka ask who its clients are: certificates, passwords, tokens, and an authorizer.

Responsible for a certificate authority made on the fly, for listeners and for the broker's properties that go with both. Not for
starting the broker (kafka.py), nor for which access control lists it holds: whoever comes by the plain listener is a super user and
sets them there. For tests: its tokens are not signed, and its passwords lie in files.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from processor.errors import SlotstreamError
from processor.testbed.ports import free_port

HERE = "127.0.0.1"
READY_S = 30.0
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER")
_PACKAGE = "org.apache.kafka.common.security"
_LOGIN = {
    "SCRAM-SHA-256": f"{_PACKAGE}.scram.ScramLoginModule required",
    "SCRAM-SHA-512": f"{_PACKAGE}.scram.ScramLoginModule required",
    "PLAIN": f"{_PACKAGE}.plain.PlainLoginModule required",
    "OAUTHBEARER": f'{_PACKAGE}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"',
}


@dataclass(frozen=True, slots=True)
class Listener:
    """A port beside the plain one.

    identities           what the broker's certificate is for; another name than 127.0.0.1 is a mismatch for its clients
    expired              the broker's certificate is of yesterday
    client_certificates  required: nobody without one of the authority's comes in, and its name is the principal
    mechanisms           of a login, where the protocol has one
    session_ms           a login is asked for again after this; 0: never
    advertised           the address that clients are sent to, where it is not the listener's own
    """

    protocol: Literal["SSL", "SASL_SSL", "SASL_PLAINTEXT"]
    identities: tuple[str, ...] = (HERE,)
    expired: bool = False
    client_certificates: Literal["none", "required"] = "none"
    mechanisms: tuple[str, ...] = MECHANISMS
    session_ms: int = 0
    advertised: str = ""


class Authority:
    """A certificate authority of one folder's own: `ca` is its certificate, for whoever is to trust it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = _trustme().CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *identities: str, expired: bool = False) -> tuple[Path, Path]:
        """Files with a key and with its certificate, for these host names, or for a client of this name."""
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        issued = self._authority.issue_cert(
            *(identities or (name,)),  # Java takes no certificate without one
            common_name=name,
            not_before=yesterday - datetime.timedelta(days=30),
            not_after=yesterday if expired else yesterday + datetime.timedelta(days=30),
        )
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        _write_secret(key, _pkcs8(issued.private_key_pem.bytes()))
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return key, certificate


class Security:
    """Listeners by name, the users who may log in at those with SASL, and access control lists for all of them.

    folder is the certificates'. For PLAIN the users stand in the broker's properties; for SCRAM they are created once it runs.
    """

    def __init__(self, folder: Path, listeners: Mapping[str, Listener], users: Mapping[str, str]) -> None:
        self.authority = Authority(folder)
        self.listeners, self.users = dict(listeners), dict(users)
        self._ports = {name: free_port() for name in listeners}

    def address(self, listener: str) -> str:
        return f"{HERE}:{self._ports[listener]}"

    def port(self, listener: str) -> int:
        return self._ports[listener]

    def properties(self, plain: int, controller: int) -> dict[str, str]:
        """The broker's, with the plain listener and the controller's at these ports."""
        addresses = {"PLAINTEXT": f"{HERE}:{plain}", **{name: self.address(name) for name in self.listeners}}
        sent_to = addresses | {name: one.advertised for name, one in self.listeners.items() if one.advertised}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **{name: one.protocol for name, one in self.listeners.items()}}
        properties = {
            "listeners": _listed({**addresses, "CONTROLLER": f"{HERE}:{controller}"}, "://"),
            "advertised.listeners": _listed(sent_to, "://"),
            "listener.security.protocol.map": _listed(protocols, ":"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Nobody is asked for a name at the plain listener and at the controller's.
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
            # What a certificate's principal is: its common name alone.
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
            # A refused login is told at once and not after a pause, so that tests need not wait for it.
            "connection.failed.authentication.delay.ms": "0",
        }
        for name, listener in self.listeners.items():
            properties |= {f"listener.name.{name.lower()}.{key}": value for key, value in self._of(name, listener).items()}
        return properties

    def create_users(self, plain: str) -> None:
        """For SCRAM, by the plain listener at this address. Raises KafkaException."""
        self.set_passwords(plain, self.users)

    def set_passwords(self, plain: str, users: Mapping[str, str]) -> None:
        """Creates these users for SCRAM, or gives them other passwords. Raises KafkaException."""
        client = AdminClient({"bootstrap.servers": plain})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # not both of one user in one request
            salted = [UserScramCredentialUpsertion(u, ScramCredentialInfo(mechanism, 4096), w.encode()) for u, w in users.items()]
            for future in client.alter_user_scram_credentials(salted).values() if salted else ():
                future.result(READY_S)

    def _of(self, name: str, listener: Listener) -> dict[str, str]:
        properties = dict[str, str]()
        if listener.protocol.endswith("SSL"):
            key, certificate = self.authority.issue(f"broker-{name.lower()}", *listener.identities, expired=listener.expired)
            store = self.authority.folder / f"broker-{name.lower()}.store.pem"
            _write_secret(store, key.read_bytes() + certificate.read_bytes())
            properties |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(store),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.ca),
                "ssl.client.auth": listener.client_certificates,
            }
        if listener.protocol.startswith("SASL"):
            properties["sasl.enabled.mechanisms"] = ",".join(listener.mechanisms)
            for mechanism in listener.mechanisms:
                known = "".join(f' user_{user}="{word}"' for user, word in self.users.items()) if mechanism == "PLAIN" else ""
                properties[f"{mechanism.lower()}.sasl.jaas.config"] = f"{_LOGIN[mechanism]}{known};"
                if listener.session_ms:
                    properties[f"{mechanism.lower()}.connections.max.reauth.ms"] = str(listener.session_ms)
        return properties


def _listed(items: Mapping[str, str], between: str) -> str:
    return ",".join(f"{name}{between}{value}" for name, value in items.items())


def _trustme() -> ModuleType:
    try:
        import trustme
    except ImportError as error:
        raise SlotstreamError(
            "the package trustme is not installed", expected="what makes the embedded Kafka's certificates", do="pip install trustme"
        ) from error
    return trustme


def _pkcs8(key: bytes) -> bytes:
    """Java reads no other form of a private key."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
