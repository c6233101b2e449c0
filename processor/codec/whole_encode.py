"""What an output says beside the plain form: which features were not measured.

Adds members to the objects that encode writes, and only to those records that have something to add.
"""

from collections.abc import Callable, Sequence

import numpy as np
import orjson

from processor.records import Applied, Batch

Encode = Callable[[Batch, Applied], list[bytes | None]]


class WholeEncoder:
    """encode: the plain one. names: of the features, or their numbers."""

    def __init__(self, encode: Encode, names: Sequence[str | int]) -> None:
        self._encode, self._names = encode, names

    def encode(self, batch: Batch, applied: Applied) -> list[bytes | None]:
        """As the plain one does; `held` lists the features of a record that something else than a measurement stands for."""
        out = self._encode(batch, applied)
        if batch.missing is None:
            return out
        record = np.repeat(np.arange(len(batch)), batch.steps)
        of_record = np.zeros((len(batch), len(self._names)), np.bool_)
        np.logical_or.at(of_record, record, batch.missing)
        for i in np.flatnonzero(of_record.any(1)).tolist():
            value = out[i]
            if value is not None:
                held = [self._names[feature] for feature in np.flatnonzero(of_record[i]).tolist()]
                out[i] = b'%b,"held":%b}' % (value[:-1], orjson.dumps(held))
        return out


def held_bytes_max(names: Sequence[str | int]) -> int:
    """The largest `held` that an output can have."""
    return len(orjson.dumps(names)) + len(b',"held":')
