"""A picture of what `slotstream try` found: what was measured, what was predicted, and how far off it was.

Responsible for keeping little enough of a long file, and for drawing it. matplotlib is an extra of the distribution (`plot`)
and is imported here only, when a picture was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from processor.errors import ConfigurationError, SlotstreamError

SUFFIXES = (".png", ".svg", ".pdf")
SENSORS_SHOWN = 4
SENSORS_KEPT = 64  # among which those with the most readings are shown
POINTS_MAX = 4000
OUTPUTS_MAX = 3  # drawn


@dataclass(slots=True)
class _Series:
    """Every stride-th reading of a sensor: where it stands, what it measured, what was predicted for it."""

    readings: int = 0
    stride: int = 1
    x: list[float] = field(default_factory=list)
    measured: list[list[float]] = field(default_factory=list)
    predicted: list[list[float]] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    alarms: list[list[float]] = field(default_factory=list)  # from and to, of each
    alarm: bool = False
    forecast: list[float] | None = None  # the latest prediction, which is of the next reading


class Plot:
    """Raises ConfigurationError before any work if no picture could be drawn after it."""

    def __init__(self, path: Path) -> None:
        _check(path)
        self.path = path
        self._series: dict[str, _Series] = {}
        self._timed = False

    def begin(self, measured: Sequence[str], outputs: int, title: str, score: str = "residual") -> None:
        """measured: the features that the outputs forecast, in the outputs' order; none where they forecast something else."""
        self._score = score
        self._measured, self._outputs, self._title = list(measured)[:OUTPUTS_MAX], min(outputs, OUTPUTS_MAX), title
        self._more = max(0, outputs - OUTPUTS_MAX)

    def add(
        self,
        sensor: str,
        timestamp: int | None,
        measured: Sequence[float | None],
        prediction: Sequence[float] | None,
        score: float | None,
        *,
        alarm: bool = False,
    ) -> None:
        """One reading, in order. measured: of the features that the outputs forecast; None: there is none. score: of the kind that
        begin() names."""
        series = self._series.get(sensor)
        if series is None:
            if len(self._series) == SENSORS_KEPT:
                return
            series = self._series[sensor] = _Series()
        self._timed = self._timed or timestamp is not None
        now = [float(v) for v in prediction[: self._outputs]] if prediction is not None else [np.nan] * self._outputs
        shown = (series.forecast or [np.nan] * self._outputs) if self._measured else now
        series.forecast = now
        series.readings += 1
        self._note_alarm(series, series.readings if timestamp is None else timestamp, alarm=alarm)
        if (series.readings - 1) % series.stride:
            return
        series.x.append(series.readings if timestamp is None else timestamp)
        series.measured.append([np.nan if v is None else v for v in measured[: len(self._measured)]])
        series.predicted.append(shown)
        series.score.append(np.nan if score is None else score)
        if len(series.x) > POINTS_MAX:
            series.stride *= 2
            for column in (series.x, series.measured, series.predicted, series.score):
                del column[1::2]

    @staticmethod
    def _note_alarm(series: _Series, x: float, *, alarm: bool) -> None:
        """An alarm is drawn from the reading that raised it to the one that cleared it."""
        if alarm and not series.alarm and len(series.alarms) < POINTS_MAX:
            series.alarms.append([x, x])
        if (alarm or series.alarm) and series.alarms:
            series.alarms[-1][1] = x
        series.alarm = alarm

    def draw(self) -> bool:
        """Writes the picture; False if there was nothing to draw. Raises SlotstreamError if it cannot be written."""
        from matplotlib.figure import Figure

        most = sorted(self._series, key=lambda sensor: -self._series[sensor].readings)[:SENSORS_SHOWN]
        shown = {sensor: series for sensor, series in self._series.items() if sensor in most}
        if not shown:
            return False
        # A panel for each output: features are of different sizes. Panels of one row share their scale, so that sensors compare.
        scores = [1.2] if any(np.isfinite(series.score).any() for series in shown.values()) else []
        heights = [2.2] * self._outputs + scores
        width = 10.0 if len(shown) == 1 else 5.0 * len(shown)
        figure = Figure(figsize=(width, 1.2 + sum(heights)), layout="constrained", dpi=110)
        axes = figure.subplots(len(heights), len(shown), squeeze=False, height_ratios=heights, sharex="col", sharey="row")
        for (sensor, series), column in zip(shown.items(), axes.T, strict=True):
            self._draw_sensor(column, sensor, series, score=bool(scores))
        if scores:
            axes[-1, 0].set_ylim(bottom=0)  # of the whole row, and only when all of it is drawn: it ends the automatic scale
        more = f" ({self._more} more outputs are not drawn)" if self._more else ""
        figure.suptitle(f"{self._title}{more}", fontsize=11)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        try:
            figure.savefig(self.path)
        except OSError as error:
            raise SlotstreamError(
                f"{self.path} cannot be written ({error.strerror})", expected="a place for the picture", do="give --plot another"
            ) from error
        return True

    def _draw_sensor(self, column: Any, sensor: str, series: _Series, *, score: bool) -> None:
        x, measured, predicted = self._x(series), np.array(series.measured), np.array(series.predicted)
        every = f", one in {series.stride} drawn" if series.stride > 1 else ""
        column[0].set_title(f"{sensor}: {series.readings:,} readings{every}", loc="left", fontsize=10)
        for j in range(self._outputs):
            if self._measured:
                column[j].plot(x, measured[:, j], color="tab:blue", linewidth=0.9, label="measured")
            column[j].plot(x, predicted[:, j], color="tab:orange", linewidth=0.9, label="predicted")
            column[j].set_ylabel(self._measured[j] if self._measured else f"prediction {j + 1}")
        if score:
            column[-1].plot(x, series.score, color="tab:red", linewidth=0.8)
            column[-1].set_ylabel(self._score)
        spans = np.array(series.alarms, "int64" if self._timed else float)
        for begin, end in spans.astype("datetime64[ms]") if self._timed else spans:
            for axis in column:
                axis.axvspan(begin, end, color="tab:red", alpha=0.15, linewidth=0.5)
        for axis in column:
            axis.grid(alpha=0.3)
            axis.margins(x=0.01)
            axis.label_outer()
        if self._timed:
            self._label_times(column[-1])
        column[-1].set_xlabel("time, UTC" if self._timed else "reading of the sensor")

    def _label_times(self, axis: Any) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=6)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))

    def _x(self, series: _Series) -> Any:
        return np.array(series.x, "int64").astype("datetime64[ms]") if self._timed else np.array(series.x)


def _check(path: Path) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "--plot draws with matplotlib, which is not installed", expected="the extra plot", do="pip install 'slotstream[plot]'"
        ) from None
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"--plot {path}", expected=f"a name that ends in {', '.join(SUFFIXES)}", do="give it one of these")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--plot {path}: there is no such folder", expected="a folder that is there", do="create it")
