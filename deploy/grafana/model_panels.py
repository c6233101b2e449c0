"""What the dashboard shows of the model: whether readings and predictions still resemble the training data."""

from panels import GREEN, ORANGE, RED, SERVICE, Panel, Query, rate, series


def _off(what: str, label: str) -> str:
    now = series(f"job:slotstream_{what}:ratio_increase1d", chosen=SERVICE)
    expected = f"min by (namespace, job, {label}, bin) ({series(f'slotstream_{what}_expected_ratio', chosen=SERVICE)})"
    return f"topk(5, abs({now} - {expected}))"


FITS = [
    Panel(
        "Drift of readings",
        "Population stability index of the last day against the training data (drift.profile), by feature. Above 0.25 an alert fires.",
        [Query(series("job:slotstream_feature_psi:increase1d", chosen=SERVICE), "{{feature}}")],
        steps=((None, GREEN), (0.1, ORANGE), (0.25, RED)),
    ),
    Panel(
        "Drift of predictions",
        "Population stability index of the last day against the training data, by output.",
        [Query(series("job:slotstream_prediction_psi:increase1d", chosen=SERVICE), "{{output}}")],
        steps=((None, GREEN), (0.1, ORANGE), (0.25, RED)),
    ),
    Panel(
        "Bins that differ most",
        "Share of the last day's readings in a bin, minus its share of the training data. Bin 0 holds the smallest values.",
        [
            Query(_off("feature", "feature"), "{{feature}}, bin {{bin}}"),
            Query(_off("prediction", "output"), "{{output}}, bin {{bin}}"),
        ],
        unit="percentunit",
    ),
    Panel(
        "Readings counted for drift",
        "Readings and predictions of the last day in the bins. Below 1,000, the bins differ by chance, and no alert fires.",
        [
            Query(f"min(sum by (feature) (increase({series('slotstream_feature_total', chosen=SERVICE)}[1d])))", "readings"),
            Query(f"min(sum by (output) (increase({series('slotstream_prediction_total', chosen=SERVICE)}[1d])))", "predictions"),
        ],
    ),
]

RAISED = [
    Panel(
        "Alarms raised and cleared",
        "By the minute (alarm.raise), and sensors that fell silent and were heard again (alarm.silent).",
        [Query(f"sum by (level, state) (60 * {rate('slotstream_alarms_total')})", "{{level}}, {{state}}")],
        width=16,
    ),
    Panel(
        "Alarms of the last day",
        "Raised and cleared, by level. Those that were raised and not cleared last.",
        [Query(f"sum by (level, state) (increase({series('slotstream_alarms_total')}[1d]))", "{{level}}, {{state}}")],
    ),
]

ROWS = (("Does the model still fit?", FITS), ("What was raised?", RAISED))
