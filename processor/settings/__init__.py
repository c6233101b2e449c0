"""The settings of the service: what can be set, where it is read from, and what is refused.

    values.py    what a value may be: durations, names, numbers, lists
    record_values.py  the same for settings that describe records
    kafka.py     the properties of librdkafka, which of them are refused, and which are secret
    librdkafka.py  their names, by client
    schema.py    every setting with its default and meaning
    keys.py      the settings as a list, for --help and docs/configuration.md
    sources.py   the YAML file, the environment, the command line
    load.py      all of it together, every mistake told at once

Not responsible for what lies outside the settings: whether the model can be served or the topics exist is asked by
`slotstream check` and at the start.

pydantic-settings holds the schema and its own sources are not used: its environment source turns a kafka value such as
1e5 into a number and drops unknown variables, its command line splits bootstrap.servers at the commas, and each ends at
the first mistake without saying which source made it.
"""

from processor.settings.kafka import BOOTSTRAP_DEFAULT, KAFKA_REFUSED, TRANSACTION_TIMEOUT_S, addresses, is_secret, kafka_key
from processor.settings.keys import Key, keys, sections
from processor.settings.load import CONFIG_DEFAULT, config_file, load_settings
from processor.settings.record_values import Missing, Quality
from processor.settings.schema import Section, Settings, dead_letter_of
from processor.settings.sources import ENV_CONFIG, ENV_PREFIX
from processor.settings.values import Allowed, RangeScale, Scale, field_path, format_duration, parse_duration, path_parts

__all__ = [
    "BOOTSTRAP_DEFAULT",
    "CONFIG_DEFAULT",
    "ENV_CONFIG",
    "ENV_PREFIX",
    "KAFKA_REFUSED",
    "TRANSACTION_TIMEOUT_S",
    "Allowed",
    "Key",
    "Missing",
    "Quality",
    "RangeScale",
    "Scale",
    "Section",
    "Settings",
    "addresses",
    "config_file",
    "dead_letter_of",
    "field_path",
    "format_duration",
    "is_secret",
    "kafka_key",
    "keys",
    "load_settings",
    "parse_duration",
    "path_parts",
    "sections",
]
