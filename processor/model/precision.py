"""States of any precision in rows of float32.

Half precision fits as it is. A float64 is kept as two float32 that add up to 48 of its 53 bits: such a row is finite where its state is.
"""

from typing import Any

from processor.model.backend import tf

LOW_BITS = 29  # that a float64 has beyond a float32


def parts_of(layer: Any) -> int:
    """How many float32 keep one number of a layer's states."""
    return 2 if layer.compute_dtype == "float64" else 1


def kept(state: Any) -> Any:
    """A state [B, w] as it lies in a row: float32 [B, w], or [B, 2 w] of a float64."""
    if state.dtype != tf.float64:
        return tf.cast(state, tf.float32)
    # Cut by its bits: XLA may leave out a conversion to float32 and back.
    bits = tf.bitwise.bitwise_and(tf.bitcast(state, tf.int64), tf.constant(-(1 << LOW_BITS), tf.int64))
    high = tf.bitcast(bits, tf.float64)
    return tf.concat([tf.cast(high, tf.float32), tf.cast(state - high, tf.float32)], axis=1)


def unpacked(state: Any, dtype: str) -> Any:
    """What kept() made of a state of this dtype."""
    if dtype != "float64":
        return tf.cast(state, dtype)
    high, low = tf.split(tf.cast(state, tf.float64), 2, axis=1)
    return high + low
