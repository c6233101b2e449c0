"""The settings of the service: their schema, their sources, and validation.

    values.py    the kinds of values: durations, names, numbers, lists
    record_values.py  the same for settings that describe records
    model_code.py  the file of a model's own layers
    model_path.py  where a model file lies
    kafka.py     the librdkafka properties that are refused, and those that are secret
    librdkafka.py  the names of the librdkafka properties, by client
    registry.py  the properties of the schema registry's client
    schema_file.py  the file of input.schema
    section.py, alarm.py  what sections are, and the section alarm, whose values are in alarm_values.py
    schema.py    every other setting with its default and its description
    keys.py      the settings as a list, for --help and docs/configuration.md
    sources.py   the YAML file, the environment, the command line
    merge.py     combines the sources, and reports every mistake at once

Not responsible for anything outside the settings: `slotstream check` and the start check whether the model can be served and the topics
exist.

pydantic-settings provides the schema, but its own sources are not used. Its environment source converts a kafka value such as 1e5 into a
number and ignores unknown variables, its command-line source splits bootstrap.servers at commas, and each stops at the first mistake
without naming the source.
"""

from processor.settings.alarm import Alarm
from processor.settings.alarm_values import Clear, Learnt, Raise, Threshold
from processor.settings.kafka import BOOTSTRAP_DEFAULT, KAFKA_REFUSED, TRANSACTION_TIMEOUT_S, addresses, is_secret, kafka_key
from processor.settings.keys import CLIENTS, Key, keys, sections
from processor.settings.merge import CONFIG_DEFAULT, config_file, load_settings
from processor.settings.model_code import ModelCode
from processor.settings.model_path import Location
from processor.settings.record_values import Missing, Quality
from processor.settings.schema import Settings, dead_letter_of
from processor.settings.schema_file import SchemaFile
from processor.settings.section import Section
from processor.settings.sources import ENV_CONFIG, ENV_PREFIX
from processor.settings.values import Allowed, Features, RangeScale, Scale, field_path, format_duration, parse_duration, path_parts

__all__ = [
    "BOOTSTRAP_DEFAULT",
    "CLIENTS",
    "CONFIG_DEFAULT",
    "ENV_CONFIG",
    "ENV_PREFIX",
    "KAFKA_REFUSED",
    "TRANSACTION_TIMEOUT_S",
    "Alarm",
    "Allowed",
    "Clear",
    "Features",
    "Key",
    "Learnt",
    "Location",
    "Missing",
    "ModelCode",
    "Quality",
    "Raise",
    "RangeScale",
    "Scale",
    "SchemaFile",
    "Section",
    "Settings",
    "Threshold",
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
