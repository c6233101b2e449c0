"""Why a broker refuses the clients of a service that runs: asked when a client hears of it, until the broker lets them in again.

Gives renewed secrets to the clients on the way. The clients go on trying meanwhile, so nothing is restarted here and nothing is lost.
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
    """What a client that was made just now has met.

    let_in   a broker has answered it
    reason   what is wrong all the same, or why none has; None where no broker was found, as in any outage
    in_part  the reason concerns some of the brokers only
    """

    let_in: bool
    reason: SlotstreamError | None = None
    in_part: bool = False


class RefusalWatch:
    """One for all clients of a process with the same properties. The clients call it as their error callback.

    ask: makes a client and lets it ask a broker; called in a thread, where it may wait for seconds.
    credentials: user and password as they are now, None where the login has none.
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
        """Why no broker lets the clients in at this moment; None if one does, or if nothing was heard."""
        return self._reason

    def watch(self, client: Any) -> None:
        """Gives it renewed credentials for as long as it lives."""
        self._clients.add(client)

    def __call__(self, error: KafkaError) -> None:
        """Called by a client inside whatever call is running: nothing is raised, and nothing is waited for."""
        if error.code() not in _REFUSALS and " alert " not in error.str():
            return
        with self._lock:
            if not self._asking:
                self._asking = True
                threading.Thread(target=self._ask_until_let_in, name="refusal", daemon=True).start()

    def _ask_until_let_in(self) -> None:
        refused = False  # since this asking began: an outage alone is not followed
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
                        _log.info("the broker gives access again")
                    return
                threading.Event().wait(ASK_AGAIN_S)
        finally:
            with self._lock:
                self._asking = False

    def _tell(self, reason: SlotstreamError) -> None:
        found, told_at_s = self._told
        if reason.found != found or self._now_s() - told_at_s > TELL_S:
            self._told = (reason.found, self._now_s())
            _log.error("no access to the broker, retrying", found=reason.found, expected=reason.expected, to_do=reason.do)

    def _renew(self) -> None:
        """A login that is refused may be one whose password was changed in its file since."""
        now = self._credentials()
        if now is None or now == self._given:
            return
        self._given = now
        for client in list(self._clients):
            try:
                client.set_sasl_credentials(*now)
            except (KafkaException, RuntimeError):
                continue  # a client that was closed
        _log.info("renewed credentials were read from their files", user=now[0])
