"""Diagnoses why a broker refuses the clients of a running service, from a client's first error until the broker admits them again.

Also passes renewed secrets to the clients. The clients keep retrying, so nothing is restarted here and nothing is lost.
"""

import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException

from processor.errors import SlotstreamError

_log = structlog.get_logger(__name__)

TELL_S = 60.0
ASK_AGAIN_S = 3.0
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of connecting with a new client.

    let_in   a broker has answered the client
    reason   a problem nevertheless, or why no broker has answered; None if no broker was found, as in an ordinary outage
    in_part  the reason concerns some of the brokers only
    """

    let_in: bool
    reason: SlotstreamError | None = None
    in_part: bool = False


class RefusalWatch:
    """Shared by all clients of a process with the same properties. The clients call it as their error callback.

    ask: creates a client and queries a broker; runs in a thread, where it may wait for seconds.
    credentials: the current user and password, None if the login has none.
    """

    def __init__(
        self,
        ask: Callable[[], Answer],
        credentials: Callable[[], tuple[str, str] | None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._credentials, self._now_s = ask, credentials, now_s
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._given = credentials()
        self._lock = threading.Lock()
        self._asking = False
        self._told: tuple[str, float] = ("", -math.inf)
        self._reason: SlotstreamError | None = None

    @property
    def reason(self) -> SlotstreamError | None:
        """Why no broker currently admits the clients; None if one does, or if no client has reported an error."""
        return self._reason

    def watch(self, client: Any) -> None:
        """Passes renewed credentials to this client as long as it exists."""
        self._clients.add(client)

    def __call__(self, error: KafkaError) -> None:
        """Called by a client inside any of its calls: must not raise or wait."""
        if error.code() not in _REFUSALS and " alert " not in error.str():
            return
        with self._lock:
            if not self._asking:
                self._asking = True
                threading.Thread(target=self._ask_until_let_in, name="refusal", daemon=True).start()

    def _ask_until_let_in(self) -> None:
        refused = False  # since this diagnosis began: a mere outage is not followed up
        try:
            while True:
                self._renew()
                answer = self._ask()
                self._reason = None if answer.in_part else answer.reason
                refused = refused or self._reason is not None
                if answer.reason is not None:
                    self._tell(answer.reason)
                if (answer.let_in and self._reason is None) or not refused:
                    if refused:
                        _log.info("the broker accepts this client again")
                    return
                threading.Event().wait(ASK_AGAIN_S)
        finally:
            with self._lock:
                self._asking = False

    def _tell(self, reason: SlotstreamError) -> None:
        found, told_at_s = self._told
        if reason.found != found or self._now_s() - told_at_s > TELL_S:
            self._told = (reason.found, self._now_s())
            _log.error("the broker rejected this client, retrying", found=reason.found, expected=reason.expected, to_do=reason.do)

    def _renew(self) -> None:
        """Rereads the credentials: a login may be refused because the password has changed in its file."""
        now = self._credentials()
        if now is None or now == self._given:
            return
        self._given = now
        for client in list(self._clients):
            try:
                client.set_sasl_credentials(*now)
            except (KafkaException, RuntimeError):
                continue  # the client is closed
        _log.info("read renewed credentials from their files", user=now[0])
