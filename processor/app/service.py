"""Runs the loop until it must stop, and ends it: signals, waiting for a permission, cleanup after an error."""

import math
import os
import signal
import time
from types import FrameType

import structlog

from processor.app.build import Build
from processor.app.health import Health
from processor.errors import Fenced, NotPermitted, SlotstreamError
from processor.kafka import admin, permissions
from processor.kafka.clients import watch_of
from processor.kafka.delivery import ClientStuckError
from processor.kafka.topic_watch import TopicWatch
from processor.loop.loop import Loop
from processor.metrics import Metrics
from processor.settings import Settings

_log = structlog.get_logger(__name__)

PERMITTED_S = 2.0  # between two checks of a missing permission
TELL_S = 60.0


class Service:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.probes = Health()
        self.probes.refusals = watch_of(settings)
        self._joined = self._stopping = False
        self._builder = Build(settings, metrics, self.probes, lambda: self._stopping)
        self._told = "", -math.inf

    def run(self) -> int:
        """Runs until stopped; returns the exit code. Raises SlotstreamError if anything else ends it."""
        self._catch_signals()
        try:
            return self._run()
        finally:
            self.probes.stopping(self._settings.drain_timeout)
            self._release()
            self._builder.close()

    def _run(self) -> int:
        try:
            loop, watch = self._build()
        except NotPermitted as refused:
            raise admin.what_is_missing(self._settings, refused) from refused
        self._joined = True
        try:
            while not self._stopping:
                try:
                    loop.turn()
                    self.probes.turned()
                except ClientStuckError as stuck:
                    self._renew_clients(loop, stuck)
                except NotPermitted as refused:
                    self._wait_until_permitted(loop, refused)
            _log.info("stopping: last commit and last checkpoint")
            watch.close()
            loop.stop(leave=self._settings.leave_on_stop)
        except Fenced:
            watch.close()
            loop.abandon(leave=False, abort=False)  # another process holds the name now
            raise
        except ClientStuckError as stuck:
            watch.close()
            loop.abandon(leave=False)
            _log.warning("stopped without a last commit: the next start repeats what was not committed", reason=str(stuck))
        except NotPermitted as refused:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise admin.what_is_missing(self._settings, refused) from refused
        except SlotstreamError as error:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise watch.explained(error) from error
        except BaseException:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise
        _log.info("stopped")
        return 0

    def _renew_clients(self, loop: Loop, stuck: ClientStuckError) -> None:
        """Gives everything back to the last commit and joins with new clients, as a restart would."""
        loop.suspend()
        while not self._stopping:
            _log.warning("the Kafka client does not find the broker, continuing with a new one", reason=str(stuck))
            try:
                loop.resume()
            except ClientStuckError as again:
                stuck = again
            except NotPermitted as refused:
                self._wait_until_permitted(loop, refused)
                return
            else:
                return

    def _wait_until_permitted(self, loop: Loop, refused: NotPermitted) -> None:
        """Waits for a revoked permission, which may be granted again: a restart could only wait for it too."""
        loop.suspend()
        while not self._stopping:
            missing = admin.what_is_missing(self._settings, refused)
            self.probes.not_permitted = missing
            self._tell_once_a_minute(missing)
            time.sleep(PERMITTED_S)
            self.probes.beat()
            # Try permissions that the broker does not report: on the transactional id, or granted again in the meantime.
            if missing is refused or missing.kind == permissions.OF_TRANSACTIONS:
                try:
                    loop.resume()
                except NotPermitted as again:
                    refused = again
                except ClientStuckError as stuck:
                    _log.warning("the Kafka client does not find the broker, trying a new one", reason=str(stuck))
                else:
                    self.probes.not_permitted = None
                    _log.info("no permission is missing any more, rejoining the group")
                    return

    def _tell_once_a_minute(self, missing: NotPermitted) -> None:
        found, told_at_s = self._told
        if missing.found != found or time.monotonic() - told_at_s > TELL_S:
            self._told = missing.found, time.monotonic()
            _log.error("waiting for a missing permission", found=missing.found, expected=missing.expected, to_do=missing.do)

    def _build(self) -> tuple[Loop, TopicWatch]:
        return self._builder.build()

    def _release(self) -> None:
        lock, self._builder.lock = self._builder.lock, None
        if lock is not None:
            lock.release()

    def _catch_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopping:
                self._release()
                os._exit(128 + number)  # a second signal ends it at once, as if killed; the next start recovers everything
            if not self._joined:
                self.probes.stopping(0.0)
                self._release()
                os._exit(0)  # nothing was consumed, and compiling a model cannot be interrupted
            self._stopping = True
            self.probes.stopping(self._settings.drain_timeout)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
