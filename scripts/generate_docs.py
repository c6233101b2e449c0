"""Writes the reference pages on settings, metrics and commands from the code that reads, counts and parses them.

`python -m scripts.generate_docs` rewrites the FILES in the working directory; a test fails when they are not current.
All other pages are written by hand.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from processor.cli.parser import make_parser
from processor.metrics import CATALOGUE, PREFIX, Spec
from processor.settings import BOOTSTRAP_DEFAULT, KAFKA_REFUSED, Key, Settings, keys, sections

MADE_BY = "made by `python -m scripts.generate_docs`: change the code, not this file"

CONFIGURATION = f"""\
# Configuration

<!-- {MADE_BY} -->

Every setting has a default: write only what differs into a file, a variable or an option. Later sources win:

| source | `input.topic` is written |
| --- | --- |
| the YAML file: `--config FILE`, else `SLOTSTREAM_CONFIG`, else `config/slotstream.yaml` if it is there | `input: {{topic: readings}}` |
| the environment | `SLOTSTREAM_INPUT__TOPIC=readings` |
| the command line | `--input.topic readings` or `--input.topic=readings` |

All mistakes in all three are reported at once, each with its source, and the command ends with exit code 2. Durations have
a unit (`100ms`, `30s`, `15m`, `1h`, `2d`); write `null` as such in a variable or an option too. Relative paths start at
the working directory. `config/slotstream.yaml` holds every key with its default.
"""

KAFKA = """\
## kafka

The properties under `kafka` are handed to librdkafka, for every client. Dots and underscores mean the same, so
`SLOTSTREAM_KAFKA__BOOTSTRAP_SERVERS`, `bootstrap_servers` and `bootstrap.servers` are one key (`log_level` is librdkafka's own name).
On the command line use `--kafka KEY=VALUE`, once for each. Numbers, `true` and `false` need no quotes.

`{file: PATH}` keeps a secret out of settings and process lists: the value is the file's text without its last line end. All three sources
accept it; the secret itself is refused on the command line, which every user of the machine can read. Secrets never appear in
messages. [Secure it](operations/security.md) says what a secure broker needs.

```yaml
kafka:
  bootstrap.servers: "broker-1:9093,broker-2:9093"
  security.protocol: SASL_SSL
  sasl.mechanism: SCRAM-SHA-512
  sasl.username: slotstream
  sasl.password: {file: /run/secrets/kafka-password}
```

These properties are refused, because [the promise](architecture/promise.md) depends on them:

| property | what to do |
| --- | --- |
"""

METRICS = f"""\
# Metrics

<!-- {MADE_BY} -->

`GET /metrics` on `http.host`:`http.port` (127.0.0.1:8080), in Prometheus's text format. Names begin with `{PREFIX}`, units are base units.
No label holds a sensor's name: the number of series grows with the partitions, not with the sensors. Series whose labels are known
beforehand exist from the start, at 0. On Linux there are also the metrics that Prometheus's client library exports for every process:
`process_start_time_seconds`, `process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds` and others.

| name | kind | unit | labels | meaning |
| --- | --- | --- | --- | --- |
"""


def configuration() -> str:
    """docs/configuration.md."""
    refused = "".join(f"| `{key}` | {_cell(do)} |\n" for key, do in KAFKA_REFUSED.items())
    tables = [_table(name, [key for key in keys() if key.name.startswith(f"{name}.")]) for name in sections()]
    plain = _table("Keys without a section", [key for key in keys() if "." not in key.name and key.name != "kafka"])
    return "\n".join([CONFIGURATION, KAFKA + refused, *tables, plain])


def _table(title: str, rows: list[Key]) -> str:
    lines = [f"## {title}", "", "| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{key.name}` | `{key.default}` | {key.allowed} | {_cell(key.meaning)} |" for key in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")  # a bare <group> would vanish as an HTML tag


def metrics() -> str:
    """docs/metrics.md."""
    rows = (f"| `{PREFIX}{spec.name}` | {spec.kind} | {spec.unit} | {_labels(spec)} | {spec.meaning} |\n" for spec in CATALOGUE)
    histograms = (
        f"| `{PREFIX}{spec.name}` | {', '.join(f'{bound:g}' for bound in spec.buckets)} |\n" for spec in CATALOGUE if spec.buckets
    )
    return METRICS + "".join(rows) + "\n## Buckets\n\n| histogram | upper bounds |\n| --- | --- |\n" + "".join(histograms)


def _labels(spec: Spec) -> str:
    return "; ".join(f"{label}: {', '.join(values)}" if values else label for label, values in spec.labels.items())


COMMANDS = f"""\
# Commands

<!-- {MADE_BY} -->

Commands that read settings take `--config FILE` and every setting of [Configuration](configuration.md) as an option, such as
`--input.topic readings`. `slotstream COMMAND --help` prints both. [Exit codes](operations/exit-codes.md) are the same for all commands.
"""


def commands() -> str:
    """docs/commands.md."""
    return "\n".join([COMMANDS, *_command_sections(make_parser())])


def _command_sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One section a command, those of groups such as `state` in a row."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                if command.get_default("command"):
                    yield _command_section(command)
                yield from _command_sections(command)


def _command_section(command: argparse.ArgumentParser) -> str:
    actions = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    words = [f"{action.metavar or action.dest}{' ...' if action.nargs == '+' else ''}" for action in actions if not action.option_strings]
    takes = ["[options]"] if any(action.option_strings for action in actions) else []
    settings = ["[settings]"] if command.get_default("has_settings") else []
    lines = [f"## {command.prog}", "", f"{command.description}", "", "```", " ".join([command.prog, *words, *takes, *settings]), "```", ""]
    rows = [f"| `{_words(action)}` | {_cell(_meaning(action))} |" for action in actions]
    return "\n".join([*lines, *(["| argument or option | meaning |", "| --- | --- |", *rows, ""] if rows else [])])


def _words(action: argparse.Action) -> str:
    takes = "" if action.nargs == 0 else str(action.metavar or ", ".join(map(str, action.choices or ())) or action.dest.upper())
    return " ".join([*action.option_strings, takes]).strip()


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%") + (" (required)" if action.option_strings and action.required else "")


def settings_yaml() -> str:
    """config/slotstream.yaml."""
    return "\n".join(_yaml_lines()) + "\n"


def _yaml_lines() -> Iterator[str]:
    yield from _comment("Every setting with its default; all of it can be left out. docs/configuration.md explains them.", "")
    yield from _comment(MADE_BY, "")
    described = {key.name: key for key in keys()}
    parts = sections()
    for name, field in Settings.model_fields.items():
        yield ""
        if name == "kafka":
            yield from [*_comment(described[name].meaning, ""), "kafka:", f'  bootstrap.servers: "{BOOTSTRAP_DEFAULT}"']
        elif name in parts:
            yield from [*_comment(field.description or "", ""), f"{name}:"]
            for inner in parts[name].model_fields:
                yield from _yaml_key(described[f"{name}.{inner}"], inner, "  ")
        else:
            yield from _yaml_key(described[name], name, "")


def _yaml_key(key: Key, name: str, indent: str) -> Iterator[str]:
    yield from _comment(key.meaning, indent)
    yield from _comment(f"allowed: {key.allowed}", indent)
    yield f"{indent}{name}: {key.default}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ", break_on_hyphens=False)


FILES: Mapping[str, Callable[[], str]] = {
    "config/slotstream.yaml": settings_yaml,
    "docs/configuration.md": configuration,
    "docs/metrics.md": metrics,
    "docs/commands.md": commands,
}


def main() -> int:
    for name, text in FILES.items():
        Path(name).write_text(text(), encoding="utf-8")
        sys.stdout.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
