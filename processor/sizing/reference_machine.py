"""What only a broker can show, as it was measured on one machine: `python -m bench.machine` writes reference_machine.json.

On another machine these figures are scaled as decoding is.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

FILE = "reference_machine.json"


@dataclass(frozen=True, slots=True)
class ReferenceMachine:
    """Seconds of the loop's time, unless they say otherwise.

    decode_s      a reading, as `plan` measures it
    consume_s     a record
    message_s     a record of the client in decode and encode, beyond the stand-in that `plan` measures
    publish_s     an output, or a checkpoint's row
    commit_s      a transaction
    client_cpu_s  CPU seconds of the client's own threads, a record read and answered
    restored_rows_per_s   by store, one partition after another
    """

    measured_on: str
    decode_s: float
    consume_s: float
    message_s: float
    publish_s: float
    commit_s: float
    client_cpu_s: float
    restored_rows_per_s: Mapping[str, float]

    @property
    def record_s(self) -> float:
        return self.consume_s + self.message_s + self.publish_s


@functools.cache
def reference_machine() -> ReferenceMachine:
    return ReferenceMachine(**json.loads(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")))
