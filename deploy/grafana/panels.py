"""What the dashboard shows of the service: four questions, a row each, and the panels that answer them.

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
        "Instances that are starting, restoring or catching up; /readyz of the instance shows which.",
        f"count({series('slotstream_ready')} == 0) or vector(0)",
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Partitions without owner",
        "Partitions of the input that no instance reads. No panel shows their lag.",
        f"max({series('slotstream_input_partitions', chosen=SERVICE)}) - sum({series('slotstream_partitions', chosen=SERVICE)})",
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Alerts firing",
        "Alerts from deploy/prometheus/rules. docs/operations/alerts.md has a section for each.",
        'count(ALERTS{alertname=~"Slotstream.+", alertstate="firing"}) or vector(0)',
        "short",
        ((None, GREEN), (1, RED)),
    ),
    stat(
        "Predicted within 1 s",
        "Share of the records in the time range that got their prediction within 1 s of their timestamp. The objective is 99 %.",
        f"sum(increase({series('slotstream_end_to_end_seconds_bucket', WITHIN_1S, SERVICE)}[$__range]))"
        f" / sum(increase({series('slotstream_end_to_end_seconds_count', chosen=SERVICE)}[$__range]))",
        "percentunit",
        ((None, RED), (0.99, GREEN)),
        decimals=2,
    ),
    stat(
        "Backlog as time",
        "The lag as a time: how long the service would need for it at its recent rate, without new records.",
        f"sum({series('slotstream_lag_records', chosen=SERVICE)})"
        f" / sum({rate('slotstream_end_to_end_seconds_count', chosen=SERVICE)})",
        "s",
        ((None, GREEN), (10, ORANGE), (60, RED)),
    ),
    stat(
        "Dead letters",
        "Share of the records that cannot be used. At dead_letter.max_ratio (half) of the last 10,000 the service ends.",
        f"max({series('job:slotstream_dead_letters:ratio_rate10m', chosen=SERVICE)})",
        "percentunit",
        ((None, GREEN), (0.01, ORANGE), (0.25, RED)),
        decimals=2,
    ),
    stat(
        "Oldest checkpoint, in intervals",
        "Age of the oldest checkpoint divided by checkpoint.interval. Above 5, a restart replays far more than it should.",
        f"max({series('slotstream_checkpoint_age_seconds')}"
        f" / on (namespace, job, instance) group_left () {series('slotstream_checkpoint_interval_seconds')})",
        "short",
        ((None, GREEN), (2, ORANGE), (5, RED)),
        decimals=1,
    ),
    stat(
        "Readings gone",
        "How often, in the time range, a partition continued after its input had lost readings.",
        f"sum(increase({series('slotstream_gaps_total')}[$__range]))",
        "short",
        ((None, GREEN), (1, RED)),
        decimals=0,
    ),
]

KEEPING_UP = [
    Panel(
        "Rate",
        "Processed readings, committed predictions, and dead letters.",
        [
            Query(f"sum({rate('slotstream_readings_total')})", "readings"),
            Query(f"sum({rate('slotstream_predictions_total')})", "predictions"),
            Query(f"sum({rate('slotstream_dead_letters_total')})", "dead letters"),
        ],
        unit="ops",
    ),
    Panel(
        "Lag by partition",
        "Offsets from the committed offset to the partition's end, including control records. "
        "If only one partition's lag grows, it has a hot sensor or a slow instance.",
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
        "Partitions that the instances own. Those restoring or joining are not read yet.",
        [Query(f"sum by (state) ({series('slotstream_partitions')})", "{{state}}")],
        stacked=True,
    ),
    Panel(
        "Rebalances and starts",
        "Changes to the instances' partitions, and process starts. Each partition that moves is restored.",
        [
            Query(f"sum by (kind) (increase({series('slotstream_rebalances_total')}[$__rate_interval]))", "{{kind}}"),
            Query(f"sum(changes({series('process_start_time_seconds')}[$__rate_interval]))", "started"),
        ],
    ),
]

TIME = [
    Panel(
        "Time by stage",
        "Seconds that the loops spend in each stage, per second and instance. consume includes waiting for records, so it shows the "
        "spare capacity. apply is the model, commit the broker, decode and encode the records.",
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
        "99 of 100 turns spend less time in the stage. A slow commit is due to the broker, and delays its transaction's predictions.",
        [Query(quantile(0.99, "slotstream_stage_seconds", "stage"), "{{stage}}")],
        unit="s",
        width=12,
    ),
    Panel(
        "Readings a turn",
        "Larger batches use the model more efficiently; at batch.readings_max the loop is behind.",
        [Query(quantile(q, "slotstream_batch_readings"), f"p{100 * q:g}") for q in (0.5, 0.99)],
    ),
    Panel(
        "Fill of the tiles",
        "Share of the computed rows that contained a reading. It is low with few readings per turn, which is harmless.",
        [Query(quantile(0.5, "slotstream_tile_fill_ratio"), "median")],
        unit="percentunit",
        top=1,
    ),
    Panel(
        "Cores",
        "Processor time of each instance. A container at its limit is throttled.",
        [Query(f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}")],
    ),
    Panel(
        "Memory",
        "Resident memory of each instance: TensorFlow, the slots and the parked rows.",
        [Query(f"max by (instance) ({series('process_resident_memory_bytes')})", "{{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Sensors and slots",
        "Sensors in slots, parked sensors, and the number of slots; and sensors in several partitions, which should be 0.",
        [
            Query(f"sum({series('slotstream_slots_used')})", "in slots"),
            Query(f"sum({series('slotstream_sensors_parked')})", "parked"),
            Query(f"sum({series('slotstream_slots')})", "slots"),
            Query(f"max({series('slotstream_sensors_split')})", "in several partitions"),
        ],
    ),
    Panel(
        "Topics",
        "Topics that are gone, and findings about topics and session: a warning is only logged, an error ends the next start.",
        [
            Query(f"max by (topic) ({series('slotstream_topic_gone')})", "gone: {{topic}}"),
            Query(f"max by (level) ({series('slotstream_topic_findings')})", "findings: {{level}}"),
        ],
    ),
    Panel(
        "Schemas and model elsewhere",
        "Requests to the schema registry per second, and whether records wait for it; 1 while model.path means another model.",
        [
            Query(f"sum by (result) ({rate('slotstream_schema_registry_requests_total')})", "{{result}}"),
            Query(f"max({series('slotstream_schema_registry_waiting')})", "records wait"),
            Query(f"max({series('slotstream_model_moved')})", "the model has moved"),
        ],
    ),
    Panel(
        "Evicted, expired and reset sensors",
        "Evictions per reading: above 0.5 there are too few slots. Expired and reset sensors per second.",
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
        "By partition; 0 if nothing was committed since. A restart replays the records since then. The alert's threshold is 5 intervals.",
        [
            Query(f"max by (partition) ({series('slotstream_checkpoint_age_seconds')})", "{{partition}}"),
            Query(f"5 * max({series('slotstream_checkpoint_interval_seconds')})", "5 intervals"),
        ],
        unit="s",
    ),
    Panel(
        "Time of a checkpoint",
        "Time to write the checkpoint of one partition. It must stay well below the interval.",
        [Query(quantile(q, "slotstream_checkpoint_seconds"), f"p{100 * q:g}") for q in (0.5, 0.99)],
        unit="s",
    ),
    Panel(
        "Size of a checkpoint",
        "Size of the last checkpoint that each instance wrote.",
        [Query(f"max by (instance) ({series('slotstream_checkpoint_bytes')})", "{{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Restores",
        "Time from a partition's assignment until it is live.",
        [Query(quantile(q, "slotstream_restore_seconds"), f"p{100 * q:g}") for q in (0.5, 0.99)],
        unit="s",
    ),
    Panel(
        "Replays",
        "Offsets that restores have left to replay, and replayed readings per second.",
        [
            Query(f"sum({series('slotstream_restore_records_left')})", "offsets left"),
            Query(f"sum({rate('slotstream_replayed_readings_total')})", "readings a second"),
        ],
    ),
    Panel(
        "Transactions",
        "Aborted transactions are repeated without loss; fenced ones met another process with the name, or timed out at the broker.",
        [Query(f"sum by (result) ({rate('slotstream_transactions_total')})", "{{result}}")],
        unit="ops",
    ),
    Panel(
        "Dead letters by reason",
        "docs/operations/alerts.md explains what to do for each reason.",
        [Query(f"sum by (error) ({rate('slotstream_dead_letters_total')})", "{{error}}")],
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Missing values by feature",
        "Values that input.missing replaced. A feature that rises alone has a sensor or a gateway that fails.",
        [Query(f"sum by (feature) ({rate('slotstream_missing_values_total')})", "{{feature}}")],
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
