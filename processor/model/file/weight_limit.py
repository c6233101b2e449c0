"""The limit that the weights in a file set to a model that is built from it.

Responsible for refusing an architecture that asks for more memory than its weights take: a few bytes can declare a layer of gigabytes.
Not responsible for reading the weights; Keras does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from processor.model.backend import tf

SPARE_BYTES = 1 << 20  # what Keras makes beside the weights that it saves


class Limit:
    """How many bytes of variables may be made, and whether one too many was asked for: Keras may raise that in other words."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max + SPARE_BYTES

    @property
    def exceeded(self) -> bool:
        return self._left < 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is open, a variable too many raises MemoryError before its memory is taken."""
        with tf.variable_creator_scope(self._make):
            yield

    def _make(self, next_creator: Callable[..., Any], **options: Any) -> Any:
        self._left -= _bytes(options["initial_value"])
        if self.exceeded:
            raise MemoryError("more variables than the file has weights for")
        return next_creator(**options)


def _bytes(value: Any) -> int:
    """Of a variable's first value. Where a function is to make it, the function is traced, which takes no memory."""
    if callable(value):
        value = tf.function(value, autograph=False).get_concrete_function().structured_outputs
    value = value if hasattr(value, "shape") and hasattr(value, "dtype") else tf.convert_to_tensor(value)
    return int(tf.TensorShape(value.shape).num_elements() or 0) * int(tf.as_dtype(value.dtype).size)
