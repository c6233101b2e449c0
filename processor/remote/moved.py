"""Whether a model's location means something else by now. Tells it, and never follows it: the model of a start is served until its end."""

import threading
from collections.abc import Callable

import structlog

from processor.errors import SlotstreamError
from processor.remote.place import Pinned, Place

_log = structlog.get_logger(__name__)

LOOK_S = 60.0


class MovedWatch:
    """moved: what the location means now, in words, while that is not what was pinned. tell(moved): called when it changes."""

    def __init__(self, place: Place, pinned: Pinned, tell: Callable[[str | None], None]) -> None:
        self._place, self._pinned, self._tell = place, pinned, tell
        self.moved: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model location", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def look(self) -> None:
        """Looks once. What cannot be reached has not moved."""
        try:
            now = self._place.look()
        except SlotstreamError as error:
            _log.debug("the model's location cannot be read", found=error.found)
            return
        moved = now.words if now.version != self._pinned.version else None
        if moved == self.moved:
            return
        self.moved = moved
        self._tell(moved)
        if moved is None:
            _log.info("model.path means the served model again", model=self._place.shown, serving=self._pinned.words)
        else:
            _log.warning(
                "model.path means another model now, serving the one of the start",
                model=self._place.shown,
                serving=self._pinned.words,
                found=moved,
                to_do="to serve it, restart with on_model_change: cold or rebuild",
            )

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            self.look()
