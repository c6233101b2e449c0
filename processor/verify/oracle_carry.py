"""What the reference oracle says that outputs take of their records: fields and headers (output.carry).

Written once more from the contract, with the standard library: imports nothing of the codec.
"""

import json
from typing import Any

from processor.settings import Settings
from processor.verify.oracle_records import InputRecord, field_of, keys_of


class Carry:
    def __init__(self, settings: Settings) -> None:
        self._names = [name for name in settings.output.carry if not name.startswith("header:")]
        self._headers = [name[7:] for name in settings.output.carry if name.startswith("header:")]

    def fields(self, record: InputRecord) -> dict[str, Any]:
        """By the last part of each path. Records with more than an output may carry are not judged."""
        if not self._names or record.value is None:
            return {}
        found = json.loads(record.value, parse_constant=lambda _: None)
        return {keys_of(name)[-1]: of for name in self._names for is_there, of in [field_of(name, found)] if is_there}

    def headers(self, record: InputRecord) -> list[tuple[str, bytes | None]]:
        return [header for header in record.headers if header[0] in self._headers or "*" in self._headers]
