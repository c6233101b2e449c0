"""The fast way of the formats of a schema: records of a plan, or of JSON behind a frame, many at a time.

Finds each record's schema by its frame. Names no fault: what is not plainly in order is None, and is read whole, one by one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.codec.columns import Columns, Message
from processor.codec.decode import Decoded, Decoder, Numbers
from processor.codec.json_records import JsonFormat
from processor.codec.reject import RejectError
from processor.codec.schemas.avro_plan import PADDING, AvroPlan, plan_of
from processor.codec.schemas.avro_records import AvroReader
from processor.codec.schemas.frame import FRAME_BYTES, HEADER, MAGIC, Frame
from processor.codec.schemas.schema_fields import SchemaReader
from processor.codec.schemas.schema_readers import Readers
from processor.codec.together import Read
from processor.codec.whole import WholeDecoder
from processor.records import Rejected


class SchemaFormat:
    """
    readers    of the records' schemas
    json       reads JSON behind a frame; None for other formats
    names, features, timestamp, unit  as of avro_plan.plan_of
    """

    steps_in_header = False

    def __init__(
        self,
        readers: Readers,
        *,
        json: JsonFormat | None,
        names: Sequence[str] | None,
        features: int,
        timestamp: str | None,
        unit: str,
    ) -> None:
        self._readers, self._json, self._features = readers, json, features
        self._asked: dict[str, Any] = {"names": names, "features": features, "timestamp": timestamp, "unit": unit}
        self._plans: dict[int, tuple[SchemaReader, AvroPlan | None]] = {}  # by the reader's identity; the reader is kept alive

    def together(self, values: Sequence[bytes | None], messages: Sequence[Message]) -> Read | None:
        """Raises SchemaPendingError."""
        if None in values:
            return None
        headers = [message.headers() for message in messages]
        if any(headers) and any(name == HEADER for some in headers for name, _ in some or ()):
            return None
        sizes = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
        data = np.frombuffer(b"".join((*values, PADDING)), np.uint8)  # type: ignore[arg-type]
        ends = np.cumsum(sizes)
        starts = ends - sizes
        if self._readers.alone is not None:
            if self._json is not None:
                return self._json.together(values)
            return self._planned(self._readers.alone, data, starts, ends)
        framed = self._framed(data, starts, sizes, messages)
        if framed is None:
            return None
        if self._json is not None:
            return self._json.together([value[FRAME_BYTES:] for value in values])  # type: ignore[index]
        starts = starts + FRAME_BYTES
        if len(framed) == 1:
            return self._planned(framed[0][0], data, starts, ends)
        x, times = np.empty((len(values), self._features)), np.empty(len(values), np.int64)
        for reader, rows in framed:
            read = self._planned(reader, data, starts[rows], ends[rows])
            if read is None or not isinstance(read[1], np.ndarray):
                return None
            x[rows], times[rows] = read[0], read[1]
        return x, times

    def numbers(self) -> Numbers:
        raise NotImplementedError  # SchemaDecoder reads one by one, and whole

    def foreign(self, _x: NDArray[Any]) -> None:
        """A number of a schema is of no other type."""

    def _framed(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], messages: Sequence[Message]
    ) -> list[tuple[SchemaReader, NDArray[np.int64]]] | None:
        """The readers of these records, and the records of each."""
        if self._readers.with_indexes or (sizes < FRAME_BYTES).any():
            return None
        frames = data[starts[:, None] + np.arange(FRAME_BYTES)]
        if (frames[:, 0] != MAGIC).any():
            return None
        ids = frames[:, 1:].copy().view(">u4")[:, 0]
        if (ids == 0).any():
            return None
        where = [message.partition() for message in messages]
        if (ids == ids[0]).all() and len(set(where)) == 1:
            return self._of_one(str(ids[0]), where[0], len(where))
        partitions = np.array(where)
        found: dict[int, tuple[SchemaReader, list[NDArray[np.int64]]]] = {}
        try:
            for number in np.unique(ids).tolist():
                rows = np.flatnonzero(ids == number)
                for partition in np.unique(partitions[rows]).tolist():
                    reader = self._readers.by_frame(Frame(str(number), FRAME_BYTES), partition)
                    found.setdefault(id(reader), (reader, []))[1].append(rows[partitions[rows] == partition])
        except RejectError:
            return None
        return [(reader, np.concatenate(parts)) for reader, parts in found.values()]

    def _of_one(self, schema_id: str, partition: int, records: int) -> list[tuple[SchemaReader, NDArray[np.int64]]] | None:
        try:
            return [(self._readers.by_frame(Frame(schema_id, FRAME_BYTES), partition), np.arange(records))]
        except RejectError:
            return None

    def _planned(self, reader: SchemaReader, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Read | None:
        known = self._plans.get(id(reader))
        if known is None:
            plan = plan_of(reader.schema, **self._asked) if isinstance(reader, AvroReader) else None
            known = self._plans[id(reader)] = reader, plan
        read = None if known[1] is None else known[1].read(data, starts, ends)
        if read is None:
            return None
        x, times = read
        return x, [None] * len(starts) if times is None else times


class SchemaDecoder(WholeDecoder):
    """Reads records together where it can, and all others whole. plain: no number may be missing, and the key is the record's own."""

    def __init__(self, *told: Any, plain: bool, **more: Any) -> None:
        super().__init__(*told, **more)
        self._plain = plain

    def decode(self, messages: Sequence[Message]) -> Decoded:
        return Decoder.decode(self, messages) if self._plain else super().decode(messages)

    def _one_by_one(self, messages: Sequence[Message], first: int, rejected: list[tuple[int, Rejected]]) -> tuple[Columns, NDArray[Any]]:
        columns, numbers = Columns(), self._new_numbers()
        for i, message in enumerate(messages, first):
            try:
                self._decode_whole(i, message, columns, numbers)
            except RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return columns, numbers.array()
