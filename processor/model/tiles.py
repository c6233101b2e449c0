"""The ladder: one XLA-compiled loop over time steps for each tile shape.

Responsible for compiling rungs, and for the proof that every kept rung gives a row the same bits as the reference rung does, so that
how readings are batched cannot be seen in the output. Not responsible for which rows go into a tile, nor for where their state lives.
"""

import queue
import threading
from collections.abc import Iterator
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from processor.errors import ModelRefused
from processor.model.backend import tf
from processor.model.heartbeat import Heartbeat
from processor.model.load import ServableModel
from processor.model.rungs import LADDER, REFERENCE, Float32, Run, RungShape, compiled_rungs

ALIGNMENT = 64  # bytes
PROBE_STEPS, PROBE_WINDOWS = 6, 2  # several steps; each of a windowed model runs the model on a whole window
PROBE_ROWS = 8  # divides the rows of every rung


class Tiles:
    """The compiled rungs of a model, ascending, each bit for bit equal to the reference rung."""

    def __init__(self, model: ServableModel, *, rows_max: int = LADDER[-1].rows, log: Any = None, beside: bool = False) -> None:
        """Compiles the reference rung, then the others up to the first that holds `rows_max` rows; drops those whose bits differ.

        beside: the others on a thread of their own, while the reference rung serves; adopt() takes them up.
        """
        self._model, self._log = model, structlog.get_logger(__name__) if log is None else log
        self._wanted = [shape for shape in compiled_rungs(rows_max, model.row_numbers) if shape != REFERENCE]
        with self._heartbeat() as heartbeat:
            heartbeat.doing = f"compiling the rung of {REFERENCE.rows} rows"
            reference = _compile(model, REFERENCE)
            heartbeat.doing = "comparing its rows"
            expected = _probe(model, REFERENCE, reference)
        if expected is None:
            raise ModelRefused(
                "the model gives a row other bits than its neighbour for the same readings",
                expected="outputs that do not depend on how readings are batched",
                do="replace what works along the batch axis, if anything does; else try the model's layers one by one, and report which",
            )
        self.shapes: tuple[RungShape, ...] = (REFERENCE,)
        self._runs: tuple[Run, ...] = (reference,)
        self._compared: queue.SimpleQueue[tuple[RungShape, Run]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._compile_beside, args=(expected,), name="rungs")
        if beside:
            self._thread.start()
        else:
            self._compile_others(expected)
            self.adopt()

    def adopt(self) -> None:
        """Takes up the rungs that were compiled and compared since. On the thread that runs them, and between two batches."""
        while not self._compared.empty():
            kept = dict(zip(self.shapes, self._runs, strict=True))
            kept.update([self._compared.get()])
            self.shapes = tuple(sorted(kept, key=lambda shape: shape.rows))
            self._runs = tuple(kept[shape] for shape in self.shapes)

    def close(self) -> None:
        """No further rung is compiled. The one that is being compiled is not waited for: a stop would take as long."""
        self._closing.set()

    def _compile_beside(self, expected: bytes) -> None:
        try:
            self._compile_others(expected)
        except ModelRefused as refused:  # the model is served all the same, by the rungs that there are
            self._log.warning("could not compile a tile size; continuing without it and the larger ones", reason=refused.found)

    def _compile_others(self, expected: bytes) -> None:
        kept, dropped = [REFERENCE.rows], []
        with self._heartbeat() as heartbeat:
            for number, shape in enumerate(self._wanted, 1):
                if self._closing.is_set():
                    return
                heartbeat.doing = f"compiling rung {number} of {len(self._wanted)}, {shape.rows} rows"
                run = _compile(self._model, shape)
                if _probe(self._model, shape, run) == expected:
                    kept.append(shape.rows)
                    self._compared.put((shape, run))
                else:
                    dropped.append(shape.rows)
        self._log.info("tiles compiled", rows_kept=sorted(kept), rows_dropped=dropped)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(lambda doing, seconds: self._log.info("still working", doing=doing, seconds=round(seconds)))

    def buffers(self, rung: int) -> tuple[Float32, NDArray[np.int32], Float32]:
        """Zeroed x, counts and state of a rung's shape, which `run` reads without copying; to be filled again and again."""
        x, counts, _, state = _arguments(self._model, self.shapes[rung])
        return _aligned(x.shape, np.float32), _aligned(counts.shape, np.int32), _aligned(state.shape, np.float32)

    def run(
        self, rung: int, x: Float32, counts: NDArray[np.int32], steps: int, state: Float32
    ) -> tuple[Float32, Float32, NDArray[np.bool_]]:
        """Feeds row b its first min(counts[b], steps) readings.

        rung: an index into `shapes`. x: float32 [steps_max, rows, F]. counts: int32 [rows]. steps: at most steps_max. state: float32
        [rows, W]. Returns read-only (y float32 [steps_max, rows, O], state float32 [rows, W], finite bool [steps_max, rows]). y is
        undefined where t >= min(counts[b], steps). finite is False where that step's output or new states hold a NaN or an infinity.
        """
        return self._runs[rung](x, counts, steps, state)


def reference_rung(model: ServableModel) -> Run:
    """The reference rung alone: `run(x, counts, steps, state)` as in Tiles.run, for tiles of REFERENCE's shape."""
    return _compile(model, REFERENCE)


def _compile(model: ServableModel, shape: RungShape) -> Run:
    """A rung ready to run; raises ModelRefused if the model has an operation that XLA cannot compile."""
    at = [tf.constant(steps, tf.int32) for steps in range(shape.steps_max + 1)]
    try:
        loop = _trace(model, shape)
        # XLA compiles at the first call.
        loop(*(tf.zeros(spec.shape, spec.dtype) for spec in _arguments(model, shape)))
    except Exception as error:  # tracing and compiling fail in the words of any layer, or of XLA
        raise _uncompilable(error) from error
    captured = loop.captured_inputs

    def run(x: Float32, counts: NDArray[np.int32], steps: int, state: Float32) -> tuple[Float32, Float32, NDArray[np.bool_]]:
        # The public call checks its arguments against the signature again: 0.1 ms, a third of a call of a small rung.
        results = loop._call_flat([_tensor(x), _tensor(counts), at[steps], _tensor(state)], captured)
        y, after, finite = (np.asarray(memoryview(result)) for result in results)
        return y, after, finite

    return run


def _tensor(array: NDArray[Any]) -> Any:
    """The array as a tensor; without a copy where its memory is aligned as TensorFlow's own."""
    flags = array.flags
    if flags.writeable and flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


def _aligned(shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Zeros at an address that suits TensorFlow."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def _arguments(model: ServableModel, shape: RungShape) -> tuple[Any, ...]:
    """x, counts, steps, state of one rung."""
    x, state = (shape.steps_max, shape.rows, model.features), (shape.rows, model.width)
    return tf.TensorSpec(x), tf.TensorSpec((shape.rows,), tf.int32), tf.TensorSpec((), tf.int32), tf.TensorSpec(state)


def _trace(model: ServableModel, shape: RungShape) -> Any:
    rows, steps_max, widths = shape.rows, shape.steps_max, model.widths

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def loop(x: Any, counts: Any, steps: Any, state: Any) -> tuple[Any, Any, Any]:
        def body(t: Any, parts: list[Any], ys: Any, broken: Any) -> tuple[Any, list[Any], Any, Any]:
            y, new = model.step(x[t][:, None], parts)
            active = counts > t
            now = active & ~_finite([y, *new])
            kept = [tf.where(active[:, None], n, p) for n, p in zip(new, parts, strict=True)]
            return t + 1, kept, ys.write(t, y), broken.write(t, now)

        ys = tf.TensorArray(tf.float32, steps_max, element_shape=(rows, model.outputs))
        broken = tf.TensorArray(tf.bool, steps_max, element_shape=(rows,))
        parts = tf.split(state, widths, axis=1) if widths else []
        _, parts, ys, broken = tf.while_loop(lambda t, *_: t < steps, body, (tf.constant(0), parts, ys, broken))
        return ys.stack(), tf.concat(parts, 1) if widths else state, ~broken.stack()

    return loop.get_concrete_function(*_arguments(model, shape))


def _uncompilable(error: Exception) -> ModelRefused:
    return ModelRefused(
        f"XLA cannot compile the model: {str(error).strip().splitlines()[0]}",
        expected="operations of fixed shapes",
        do="replace the layer that the message names",
    )


def _finite(values: list[Any]) -> Any:
    """bool [B]: every number of every [B, n] value is finite."""
    # Values of one width are joined number by number first: that vectorises, a reduction along a row does not.
    joined: dict[int, Any] = {}
    for value in values:
        finite, width = tf.math.is_finite(value), value.shape[1]
        joined[width] = joined[width] & finite if width in joined else finite
    return reduce(and_, (tf.reduce_all(finite, axis=1) for finite in joined.values()))


def _probe(model: ServableModel, shape: RungShape, run: Run) -> bytes | None:
    """What a rung makes of a few readings and states that fill all its rows over and over, after one step and after several.

    The bytes for each of them, or None where two rows differ: then bits depend on the row, or on the rows beside it, of which a second
    filling has others.
    """
    rows = np.arange(shape.rows)
    once, again = rows % PROBE_ROWS, (rows + 3) % np.where(rows < shape.rows // 2, PROBE_ROWS, PROBE_ROWS // 2)
    found: dict[int, bytes] = {}
    for at in (once, again):
        seen = np.concatenate([_outcome(run, shape, x[:, at], state[at]) for x, state in _probes(model)], axis=1)
        for probe, outcome in zip(at.tolist(), seen, strict=True):
            if found.setdefault(probe, outcome.tobytes()) != outcome.tobytes():
                return None
    return b"".join(found[probe] for probe in range(PROBE_ROWS))


def _probes(model: ServableModel) -> Iterator[tuple[Float32, Float32]]:
    """Readings and states to compare rungs by, float32 [steps, PROBE_ROWS, F] and [PROBE_ROWS, W].

    Of several scales, and states of zero, as a sensor begins: what is large hides in the sum how what is small was added.
    """
    rng = np.random.default_rng(0)
    several = PROBE_WINDOWS if model.mode == "windowed" else PROBE_STEPS
    for steps, reading, state in ((1, 1, 1), (several, 1, 1), (1, 1, 0), (1, 1, 0), (1, 100, 0.1), (1, 0.01, 0.01)):
        readings = reading * rng.normal(size=(steps, PROBE_ROWS, model.features))
        yield model.inputs.plausible(readings), (state * rng.uniform(-1, 1, size=(PROBE_ROWS, model.width))).astype(np.float32)


def _outcome(run: Run, shape: RungShape, readings: Float32, state: Float32) -> Float32:
    """float32 [rows, n]: each row's outputs for these readings, [steps, rows, F], and its state after them."""
    steps, rows = readings.shape[:2]
    x = np.zeros((shape.steps_max, rows, readings.shape[2]), np.float32)
    x[:steps] = readings
    y, after, _ = run(x, np.full(rows, steps, np.int32), steps, state)
    return np.concatenate([y[:steps].swapaxes(0, 1).reshape(rows, -1), after], axis=1)
