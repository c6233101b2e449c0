"""What the dashboard shows: four questions, a row each, and the panels that answer them.

Is it healthy, is it keeping up, where does the time go, is the state safe. The first row answers in one look, with a colour a number; the
others say why. How a panel becomes Grafana's JSON is dashboard.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

GREEN, ORANGE, RED = "green", "orange", "red"

# What the variables at the top have chosen. A partition without an owner, or the objective, is the whole service's and no instance's.
CHOSEN = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
SERVICE = 'namespace=~"$namespace", job=~"$job"'
WITHIN_1S = 'le="1.0"'

Steps = tuple[tuple[float | None, str], ...]


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """title; what it tells; its queries. steps: (from, colour), the first from anything."""

    title: str
    tells: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: Steps = ((None, GREEN),)
    stacked: bool = False
    top: float | None = None
    decimals: int | None = None


def rate(name: str, labels: str = "", chosen: str = CHOSEN) -> str:
    return f"rate({series(name, labels, chosen)}[$__rate_interval])"


def series(name: str, labels: str = "", chosen: str = CHOSEN) -> str:
    return f"{name}{{{', '.join(filter(None, (chosen, labels)))}}}"


def quantile(q: float, name: str, by: str = "") -> str:
    return f"histogram_quantile({q}, sum by ({', '.join(filter(None, ('le', by)))}) ({rate(f'{name}_bucket')}))"


def stat(title: str, tells: str, expression: str, unit: str, steps: Steps, decimals: int | None = None) -> Panel:
    return Panel(title, tells, [Query(expression)], kind="stat", unit=unit, width=3, height=4, steps=steps, decimals=decimals)


HEALTHY = [
    stat(
        "Instances not ready",
        "Starting, restoring or catching up; /readyz of the instance says which.",
        f"count({series('slotstream_ready')} == 0) or vector(0)",
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Partitions without owner",
        "Partitions of the input that no instance reads. Their lag is not shown anywhere.",
        f"max({series('slotstream_input_partitions', chosen=SERVICE)}) - sum({series('slotstream_partitions', chosen=SERVICE)})",
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Alerts firing",
        "Of those in deploy/prometheus/rules. Each has its section in docs/operations/alerts.md.",
        'count(ALERTS{alertname=~"Slotstream.+", alertstate="firing"}) or vector(0)',
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Predicted within 1 s",
        "Share of the records of the time range that were answered within 1 s of their timestamp. The objective is 99 %.",
        f"sum(increase({series('slotstream_end_to_end_seconds_bucket', WITHIN_1S, SERVICE)}[$__range]))"
        f" / sum(increase({series('slotstream_end_to_end_seconds_count', chosen=SERVICE)}[$__range]))",
        "percentunit",
        ((None, RED), (0.99, GREEN)),
        decimals=2,
    ),
    stat(
        "Work that waits",
        "The lag as time: how long the service would take for it at the pace of the last minutes, if nothing more came.",
        f"sum({series('slotstream_lag_records', chosen=SERVICE)})"
        f" / sum({rate('slotstream_end_to_end_seconds_count', chosen=SERVICE)})",
        "s",
        ((None, GREEN), (10, ORANGE), (60, RED)),
    ),
    stat(
        "Dead letters",
        "Share of the records that cannot be used. At dead_letter.max_ratio (half) of the last 10,000 the service ends itself.",
        f"max({series('job:slotstream_dead_letters:ratio_rate10m', chosen=SERVICE)})",
        "percentunit",
        ((None, GREEN), (0.01, ORANGE), (0.25, RED)),
        decimals=2,
    ),
    stat(
        "Oldest checkpoint, in intervals",
        "Age of the oldest checkpoint by checkpoint.interval. Above 5 a restart replays far more than it should.",
        f"max({series('slotstream_checkpoint_age_seconds')}"
        f" / on (namespace, job, instance) group_left () {series('slotstream_checkpoint_interval_seconds')})",
        "short",
        ((None, GREEN), (2, ORANGE), (5, RED)),
        decimals=1,
    ),
    stat(
        "Readings gone",
        "Times in the time range that a partition went on without readings that its input no longer holds.",
        f"sum(increase({series('slotstream_gaps_total')}[$__range]))",
        "short",
        ((None, GREEN), (1, RED)),
        decimals=0,
    ),
]

KEEPING_UP = [
    Panel(
        "Rate",
        "Readings that were stepped, predictions that were committed, and dead letters.",
        [
            Query(f"sum({rate('slotstream_readings_total')})", "readings"),
            Query(f"sum({rate('slotstream_predictions_total')})", "predictions"),
            Query(f"sum({rate('slotstream_dead_letters_total')})", "dead letters"),
        ],
        unit="ops",
    ),
    Panel(
        "Lag by partition",
        "Offsets between the committed one and the partition's end, control records too. "
        "One that grows alone: a hot sensor, or a slow instance.",
        [Query(f"max by (partition) ({series('slotstream_lag_records')})", "{{partition}}")],
    ),
    Panel(
        "From timestamp to commit",
        "Latency of the predictions, from the record's timestamp to the commit that makes them visible.",
        [Query(quantile(q, "slotstream_end_to_end_seconds"), f"p{100 * q:g}") for q in (0.5, 0.9, 0.99)],
        unit="s",
        steps=((None, GREEN), (1, RED)),
    ),
    Panel(
        "Predicted within 1 s",
        "The objective is 99 %. Windows of 5 minutes and 1 hour are those of the fast alert, 30 minutes and 6 hours those of the slow one.",
        [
            Query(series(f"job:slotstream_predicted_within_1s:ratio_rate{window}", chosen=SERVICE), window)
            for window in ("5m", "30m", "1h", "6h")
        ],
        unit="percentunit",
        steps=((None, RED), (0.99, GREEN)),
        top=1,
    ),
    Panel(
        "Partitions by state",
        "What the instances own. Restoring and joining ones are not read yet.",
        [Query(f"sum by (state) ({series('slotstream_partitions')})", "{{state}}")],
        stacked=True,
    ),
    Panel(
        "Rebalances and starts",
        "Changes of the instances' partitions, and starts of processes. Each partition that moves is restored.",
        [
            Query(f"sum by (kind) (increase({series('slotstream_rebalances_total')}[$__rate_interval]))", "{{kind}}"),
            Query(f"sum(changes({series('process_start_time_seconds')}[$__rate_interval]))", "started"),
        ],
    ),
]

TIME = [
    Panel(
        "Time by stage",
        "Seconds that the loops spend in each stage, for each second and instance. consume is also the waiting for records: what is "
        "left of it is the room that there is. apply is the model, commit the broker, decode and encode the records.",
        [
            Query(
                f"sum by (stage) ({rate('slotstream_stage_seconds_sum')}) / scalar(count({series('slotstream_ready')}))",
                "{{stage}}",
            )
        ],
        unit="s",
        width=12,
        stacked=True,
    ),
    Panel(
        "Longest turns by stage (p99)",
        "99 of 100 turns spend less in the stage. A commit that takes long is the broker; it delays every prediction of its transaction.",
        [Query(quantile(0.99, "slotstream_stage_seconds", "stage"), "{{stage}}")],
        unit="s",
        width=12,
    ),
    Panel(
        "Readings a turn",
        "Larger batches use the model better; at batch.readings_max the loop is behind.",
        [Query(quantile(q, "slotstream_batch_readings"), f"p{100 * q:g}") for q in (0.5, 0.99)],
    ),
    Panel(
        "Fill of the tiles",
        "Share of the computed rows that held a reading. Low with few readings a turn, which costs nothing that is missed.",
        [Query(quantile(0.5, "slotstream_tile_fill_ratio"), "median")],
        unit="percentunit",
        top=1,
    ),
    Panel(
        "Cores",
        "Processor time of each instance. At its limit a container is slowed down.",
        [Query(f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}")],
    ),
    Panel(
        "Memory",
        "Resident memory of each instance: TensorFlow's, the slots and the parked rows.",
        [Query(f"max by (instance) ({series('process_resident_memory_bytes')})", "{{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Sensors and slots",
        "Sensors in slots, sensors parked beside them, the slots that there are; and sensors in several partitions, which should be 0.",
        [
            Query(f"sum({series('slotstream_slots_used')})", "in slots"),
            Query(f"sum({series('slotstream_sensors_parked')})", "parked"),
            Query(f"sum({series('slotstream_slots')})", "slots"),
            Query(f"max({series('slotstream_sensors_split')})", "in several partitions"),
        ],
    ),
    Panel(
        "Topics",
        "Topics that are gone, and what a look at topics and session found: a warning can be lived with, an error ends the next start.",
        [
            Query(f"max by (topic) ({series('slotstream_topic_gone')})", "gone: {{topic}}"),
            Query(f"max by (level) ({series('slotstream_topic_findings')})", "findings: {{level}}"),
        ],
    ),
    Panel(
        "Sensors that changed places",
        "Evictions for each reading: above 0.5 the slots are too few. Sensors that expired and sensors that began anew, a second.",
        [
            Query(f"sum({rate('slotstream_evictions_total')}) / sum({rate('slotstream_readings_total')})", "evictions a reading"),
            Query(f"sum({rate('slotstream_sensors_expired_total')})", "expired"),
            Query(f"sum by (reason) ({rate('slotstream_resets_total')})", "reset: {{reason}}"),
        ],
    ),
]

SAFE = [
    Panel(
        "Age of checkpoints",
        "By partition; 0 while nothing was committed since. A restart replays what came after. One line is the alert's bound, 5 intervals.",
        [
            Query(f"max by (partition) ({series('slotstream_checkpoint_age_seconds')})", "{{partition}}"),
            Query(f"5 * max({series('slotstream_checkpoint_interval_seconds')})", "5 intervals"),
        ],
        unit="s",
    ),
    Panel(
        "Time of a checkpoint",
        "How long one partition's takes to be written. It must stay well below the interval.",
        [Query(quantile(q, "slotstream_checkpoint_seconds"), f"p{100 * q:g}") for q in (0.5, 0.99)],
        unit="s",
    ),
    Panel(
        "Size of a checkpoint",
        "Of the last one written by each instance.",
        [Query(f"max by (instance) ({series('slotstream_checkpoint_bytes')})", "{{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Restores",
        "Time from a partition's assignment until it is read.",
        [Query(quantile(q, "slotstream_restore_seconds"), f"p{100 * q:g}") for q in (0.5, 0.99)],
        unit="s",
    ),
    Panel(
        "Replays",
        "Offsets that restores still have before them, and readings that they step a second.",
        [
            Query(f"sum({series('slotstream_restore_records_left')})", "offsets left"),
            Query(f"sum({rate('slotstream_replayed_readings_total')})", "readings a second"),
        ],
    ),
    Panel(
        "Transactions",
        "Aborted ones are done again and lose nothing; fenced ones met another process of the name, or a broker that timed them out.",
        [Query(f"sum by (result) ({rate('slotstream_transactions_total')})", "{{result}}")],
        unit="ops",
    ),
    Panel(
        "Dead letters by reason",
        "docs/operations/alerts.md tells of each reason what to do.",
        [Query(f"sum by (error) ({rate('slotstream_dead_letters_total')})", "{{error}}")],
        unit="ops",
        stacked=True,
    ),
    Panel(
        "What runs",
        "Model and versions of each instance. Two fingerprints in one group: a rollout, or a mistake.",
        [
            Query(f"max by (instance, fingerprint, mode, features, outputs, state_bytes) ({series('slotstream_model_info')})"),
            Query(f"max by (instance, version, python, tensorflow, librdkafka) ({series('slotstream_build_info')})"),
        ],
        kind="table",
        width=16,
    ),
]

ROWS = (("Is it healthy?", HEALTHY), ("Is it keeping up?", KEEPING_UP), ("Where does the time go?", TIME), ("Is the state safe?", SAFE))
