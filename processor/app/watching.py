"""Those who watch readings and predictions pass, as the settings ask for it. Composition only; what is published does not depend on it."""

import functools
from typing import TYPE_CHECKING

from processor.app.drift_profile import drift_counts
from processor.app.sensor_book import SensorBook
from processor.app.sensor_form import sensor_form
from processor.engine import Engine, Shapes
from processor.kafka import group
from processor.loop.inquiries import Inquiries
from processor.loop.observer import Observer
from processor.loop.recent_readings import RecentReadings
from processor.metrics import Metrics
from processor.partitions import Partitions
from processor.settings import Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel

ANSWER_S = 2.0  # of the loop, after a commit, to a question


class Watching:
    """book: what is shown of single sensors; None unless http.sensors, and before begin()."""

    def __init__(self, settings: Settings, model: "ServableModel", shapes: Shapes, metrics: Metrics) -> None:
        """Raises ConfigurationError if the profile of the training data does not fit the model."""
        self._settings, self._form = settings, sensor_form(settings, model, shapes)
        self.inquiries = Inquiries()
        self.observers: list[Observer] = []
        self.book: SensorBook | None = None
        if settings.drift.profile is not None:
            self.observers.append(drift_counts(settings.drift.profile, self._form, metrics))

    def begin(self, partitions: Partitions, engine: Engine, partitions_total: int) -> None:
        """partitions_total: of the input."""
        if not self._settings.http.sensors:
            return
        recent = RecentReadings()
        self.observers.append(recent)
        self.book = SensorBook(
            self._form,
            partitions,
            engine,
            self.inquiries,
            recent,
            partitions_total=partitions_total,
            timeout_s=self._settings.commit_interval + ANSWER_S,
            ask_owners=functools.partial(group.owners, self._settings),
        )
