"""Where a field lies in a record: the key as it is written if the record has it, otherwise its dots descend.

The one place that finds a field by its name in a record that is read whole. Says nothing of what may lie there.
"""

from typing import Any

from processor.settings import path_parts

ABSENT: Any = object()


class FieldPath:
    """name: as the settings write it; in quotes its dots do not descend."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts = path_parts(name)
        self._written = None if '"' in name or len(self.parts) == 1 else name

    def find(self, found: Any) -> Any:
        """What lies there: None for null, there or on the way; ABSENT for nothing."""
        if self._written is not None and isinstance(found, dict) and self._written in found:
            return found[self._written]
        for part in self.parts:
            if not isinstance(found, dict):
                return ABSENT
            found = found.get(part, ABSENT)
            if found is None:
                return None
        return found

    def way(self, found: Any) -> tuple[str, ...]:
        """The keys that find() follows in this record."""
        written = self._written is not None and isinstance(found, dict) and self._written in found
        return (self.name,) if written else self.parts
