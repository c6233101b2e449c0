"""The options of one layer in an old configuration, read one at a time and each judged.

Responsible for telling a usable value from one that is not, and for noticing what nobody has read. Not responsible for which layer
has which options (configuration.py).
"""

import math
from collections.abc import Callable
from typing import Any

from processor.errors import ModelRefused

# The old name and the new one. hard_sigmoid is not the same function in Keras 3: weights.py and rebuild.py make up for it.
ACTIVATIONS = {
    **{name: name for name in (
        "elu", "exponential", "gelu", "hard_sigmoid", "leaky_relu", "linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
        "silu", "softmax", "softplus", "softsign", "tanh",
    )},
    "swish": "silu",
}  # fmt: skip
# What only training knows, what says how and not what is computed, and what is read elsewhere.
IGNORED = frozenset({
    "name", "trainable", "dtype", "input_dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length",
    "implementation", "consume_less", "unroll", "dropout", "recurrent_dropout", "dropout_W", "dropout_U", "seed", "noise_shape",
    "init", "inner_init", "forget_bias_init", "unit_forget_bias", "beta_init", "gamma_init", "momentum", "fused", "virtual_batch_size",
    "renorm_clipping", "renorm_momentum", "synchronized", "l1", "l2", "weights", "optional", "shared_object_id", "build_config",
})  # fmt: skip
IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# What would change the meaning of every number.
UNWANTED = {
    "time_major": "reads and gives [steps, batch, features], so that the steps of a reading would be taken for sensors",
    "ragged": "reads ragged tensors",
    "sparse": "reads sparse tensors",
    "renorm": "normalises by corrections of its own (renorm)",
    "zero_output_for_mask": "gives zeros for masked steps, which Keras 3 does not keep in a file",
}

Reader = Callable[["Options", Any], Any]


class Options:
    def __init__(self, label: str, config: dict[str, Any]) -> None:
        self.label, self.config = label, config
        self._seen: set[str] = set()
        self._check_dtype()
        for key, reason in UNWANTED.items():
            self.must(key, False, reason)

    def get(self, names: tuple[str, ...], reader: Reader, default: Any) -> Any:
        """The option under the first of its names that the file has; `...` as default: it must have one."""
        for name in names:
            if name in self.config:
                self._seen.add(name)
                return self.read(self.config[name], reader, name)
        if default is ...:
            raise ModelRefused(f"layer {self.label} has no {names[0]}", expected=f"its {names[0]}", do="copy the file again")
        return default

    def read(self, value: Any, reader: Reader, name: str) -> Any:
        try:
            return reader(self, value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelRefused(
                f"layer {self.label} has {name} {str(value)[:60]!r}", expected=str(error) or "a usable value", do="copy the file again"
            ) from error

    def raw(self, name: str, default: Any = ...) -> Any:
        return self.get((name,), lambda _, value: value, default)

    def must(self, name: str, value: Any, reason: str) -> None:
        """Refuses any other value, for a reason that begins with a verb."""
        self._seen.add(name)
        if self.config.get(name) not in (value, None):
            raise ModelRefused(
                f"layer {self.label} has {name}={self.config[name]!r}: it {reason}", expected=f"{name}={value!r}", do="build the model "
                "again without it, and save it"
            )  # fmt: skip

    def input_shape(self) -> tuple[int | None, ...] | None:
        """With the batch, as the first layer of a chain was given it; Keras 1 also had it in two numbers."""
        for name in ("batch_input_shape", "batch_shape"):
            if self.config.get(name) is not None:
                found: tuple[int | None, ...] = self.read(self.config[name], shape, name)
                return found
        features = self.config.get("input_dim")
        if features is None:
            return None
        steps = self.config.get("input_length")
        timed = "input_length" in self.config or "return_sequences" in self.config
        return self.read([None, steps, features] if timed else [None, features], shape, "input_dim")  # type: ignore[no-any-return]

    def check_rest(self) -> None:
        """Refuses an option that nobody has read, unless it is off: what it does is not known, so neither is what the model computes."""
        for key, value in self.config.items():
            known = key in IGNORED or key in self._seen or key.endswith(IGNORED_ENDINGS) or key.startswith(("W_", "U_", "b_"))
            if not known and value not in (None, False):
                raise ModelRefused(
                    f"layer {self.label} has {key}={str(value)[:60]}", expected="options that are converted", do="build the model again "
                    "without it, and save it"
                )  # fmt: skip

    def _check_dtype(self) -> None:
        for key in ("dtype", "input_dtype"):
            dtype = self.config.get(key)
            if isinstance(dtype, dict):
                config = dtype.get("config")
                dtype = config.get("name") if isinstance(config, dict) else dtype.get("class_name")
            if dtype not in (None, "float32"):
                raise ModelRefused(
                    f"layer {self.label} computes in {str(dtype)[:60]}", expected="float32 throughout", do="rebuild the model with float32"
                )


# --- the readers: what a value must be, in the words of the refusal


def whole(_: Options, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value != int(value):
        raise ValueError("a whole number")
    return int(value)


def positive(options: Options, value: Any) -> int:
    found = whole(options, value)
    if not 1 <= found < 1 << 31:
        raise ValueError("a whole number of 1 or more")
    return found


def number(_: Options, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def flag(_: Options, value: Any) -> bool:
    if not isinstance(value, (bool, int)):
        raise ValueError("true or false")
    return bool(value)


def one_of(*values: Any) -> Reader:
    def read(_: Options, value: Any) -> Any:
        if not isinstance(value, (str, type(None))) or value not in values:
            raise ValueError("one of " + ", ".join(map(str, values)))
        return value

    return read


def single(reader: Reader, *, none: bool = False) -> Reader:
    """A value that Keras 2 writes alone or as a list of one."""

    def read(options: Options, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        return None if none and value is None else reader(options, value)

    return read


def list_of(reader: Reader) -> Reader:
    """A list, or a value that stands for itself; null stays null."""

    def read(options: Options, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(reader(options, item) for item in value)
        return None if value is None else reader(options, value)

    return read


def shape(options: Options, value: Any) -> tuple[int | None, ...]:
    value = value.get("items") if isinstance(value, dict) else value  # as TensorFlow 2.2 wrote it
    if not isinstance(value, list) or not 2 <= len(value) <= 8:
        raise ValueError("a list of sizes, null where free")
    return tuple(None if size is None else positive(options, size) for size in value)
