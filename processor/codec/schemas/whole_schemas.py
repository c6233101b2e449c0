"""The formats of a schema, for records that are read whole: a record becomes a dict, and is then read as one of JSON is.

What differs from JSON: the frame, the unit of a time of a logical type, and messages that name the schema's fields.
"""

from collections.abc import Sequence
from typing import Any

from processor.codec.columns import Message
from processor.codec.missing import Absent, Qualities
from processor.codec.reject import RejectError
from processor.codec.schemas.schema_fields import Record, in_ms
from processor.codec.schemas.schema_readers import Readers
from processor.codec.whole_json import WholeJson


class WholeSchemas(WholeJson):
    """
    readers    of the records' schemas
    unit       input.timestamp_unit: auto takes the unit of a time's logical type
    others     as of WholeJson
    """

    def __init__(
        self,
        readers: Readers,
        *,
        features: int,
        names: Sequence[str] | None,
        timestamp: str | None,
        unit: str = "auto",
        absent: Absent | None = None,
        qualities: Qualities | None = None,
    ) -> None:
        super().__init__(features=features, names=names, timestamp=timestamp, absent=absent, qualities=qualities)
        self._readers, self._by_type = readers, unit == "auto"

    def load(self, value: bytes, message: Message) -> Any:
        """Raises RejectError, SchemaPendingError."""
        found, reader = self._readers.read(value, message)
        return Record(found, reader.fields) if isinstance(found, dict) else found

    def steps(self, found: Any, asked: int) -> list[list[float]]:
        try:
            return super().steps(found, asked)
        except RejectError as error:
            if error.error == "bad_schema" and isinstance(found, Record):
                raise RejectError(error.error, f"{error.detail}; {found.fields.numeric()}") from None
            raise

    def timestamp(self, found: Any) -> int | float | str | None:
        timestamp = super().timestamp(found)
        if self._timestamp is not None and self._by_type and isinstance(found, Record):
            return in_ms(timestamp, self._timestamp, found)  # type: ignore[no-any-return]
        return timestamp
