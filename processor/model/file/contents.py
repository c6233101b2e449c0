"""What the architecture in a file may hold, judged before anything of it is built.

Responsible for a list of what is known to be numbers in, numbers out: layers, operations, and what belongs to them. Everything else is
refused by its name, since building it may import, read or run what a model has no business with. Not responsible for reading files, nor
for whether what is listed can be stepped.
"""

from collections.abc import Iterator
from typing import Any

from processor.errors import ModelRefused
from processor.model.backend import keras
from processor.model.file.own_code import OwnCode, advice

DEPTH_MAX = 200
THE_MODEL = "the model"
# What these do, they do in training only.
TRAINING_ONLY = frozenset({
    "ActivityRegularization", "AlphaDropout", "AugMix", "CutMix", "Dropout", "GaussianDropout", "GaussianNoise", "Identity", "MixUp",
    "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
    "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
})  # fmt: skip
LAYERS = TRAINING_ONLY | frozenset({
    "Activation", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D", "Add", "AdditiveAttention", "Attention", "Average", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "BatchNormalization", "Bidirectional", "Concatenate", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose",
    "Conv3D", "ConvLSTM1D", "ConvLSTM2D", "Cropping1D", "Cropping2D", "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "Dot",
    "ELU", "EinsumDense", "Embedding", "Flatten", "GRU", "GRUCell", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GroupNormalization", "GroupQueryAttention",
    "InputLayer", "LSTM", "LSTMCell", "LayerNormalization", "LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization", "PReLU", "Permute", "RMSNormalization", "RNN", "ReLU",
    "RepeatVector", "Rescaling", "Reshape", "SeparableConv1D", "SeparableConv2D", "SimpleRNN", "SimpleRNNCell", "Softmax",
    "SpectralNormalization", "StackedRNNCells", "Subtract", "TimeDistributed",
    "UnitNormalization", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
})  # fmt: skip
MODELS = frozenset({"Sequential", "Functional", "Model"})
MODEL_MODULES = ("keras", "keras.models", "keras.src.models.functional", "keras.src.models.model", "keras.src.models.sequential")
OPERATION_MODULES = ("keras.src.ops.numpy", "keras.src.ops.nn", "keras.src.ops.math", "keras.src.ops.linalg")
CORE_OPERATIONS = frozenset({"Cast", "SaturateCast", "Slice", "SliceUpdate", "StopGradient", "Unstack"})  # the others take functions
# Classes of these hold numbers only; the last ones come with a nested model that was compiled.
PARTS = {
    f"keras.{name}": getattr(keras, name) for name in ("initializers", "regularizers", "constraints", "losses", "metrics", "optimizers")
}
PARTS["keras.optimizers.schedules"] = keras.optimizers.schedules
PARTS["keras.random"] = keras.random
VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"})
OUTSIDE = ("TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper")
ACTIVATIONS = ("activation", "recurrent_activation")
PRECISIONS = ("float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
NO_TRAINING = (None, False, 0)
UNROLLED_STEPS_MAX = 1000
STEP_KEYS = ("batch_shape", "n", "target_shape", "size", "padding", "output_size")


WITHOUT_LAMBDA = (
    "write what it computes without the Lambda; in a Functional model the same line stands by itself: x = x[:, -1, :] (or the LSTM before "
    "it with return_sequences=False), x = x * 0.5, x = keras.ops.mean(x, axis=1); then new.set_weights(old.get_weights()) and "
    "new.save('model.keras')"
)


def check(config: Any, own: OwnCode | None = None) -> None:
    """Raises ModelRefused, naming the layer, for an architecture that holds anything but layers of numbers, Keras's or those of `own`."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ModelRefused("the file's architecture names no model", expected="a model of Keras's own layers", do="save the model again")
    steps = 0
    unrolled: list[str] = []
    for owner, item in objects(config):
        name = item["class_name"]
        if not isinstance(name, str):
            raise ModelRefused(f"{_of(owner)} is of no class ({name!r})", expected="the name of a layer", do="save the model again")
        _check_known(owner, name, item, own)
        _check_dtype(owner, item)
        _check_input(name, item)
        _check_activations(owner, item, own)
        _check_calls(owner, item)
        inner = item.get("config")
        if isinstance(inner, dict):
            steps = max(steps, *map(_largest, (inner.get(key) for key in STEP_KEYS)))
            unrolled += [owner] if inner.get("unroll") else []
    if unrolled and steps > UNROLLED_STEPS_MAX:
        raise ModelRefused(
            f"{_of(unrolled[0])} is unrolled, over up to {steps:,} steps",
            expected=f"at most {UNROLLED_STEPS_MAX:,} unrolled steps: each is compiled by itself",
            do="rebuild it without unroll=True",
        )


def is_stateful(config: dict[str, Any]) -> bool:
    return any(isinstance(item.get("config"), dict) and item["config"].get("stateful") for _, item in objects(config))


def own_objects(config: dict[str, Any], own: OwnCode | None) -> dict[str, Any]:
    """The classes and functions of `own`, by each name that the architecture calls one of them."""
    named = [(item.get("registered_name"), item["class_name"]) for _, item in objects(config)] if own else []
    named += [(item["config"], item["config"]) for _, item in objects(config) if item["class_name"] == "function"] if own else []
    found = {name: own.find(plain, name) for name, plain in named if own and isinstance(name, str)}
    return {name: thing for name, thing in found.items() if thing is not None}


def objects(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every serialised object, each with the name of the layer that it belongs to, but how the model itself is compiled: that is left out
    when it is loaded."""
    yield from _objects({key: value for key, value in config.items() if key != "compile_config"}, THE_MODEL, DEPTH_MAX)


def _objects(node: Any, owner: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if depth == 0:
        raise ModelRefused(
            f"the file's architecture is nested deeper than {DEPTH_MAX} levels", expected="a model of layers", do="save the model again"
        )
    if isinstance(node, list):
        for item in node:
            yield from _objects(item, owner, depth - 1)
    if not isinstance(node, dict):
        return
    if "class_name" in node:
        config = node.get("config")
        owner = str(config["name"]) if isinstance(config, dict) and "batch_shape" not in config and "name" in config else owner
        yield owner, node
    for value in node.values():
        yield from _objects(value, owner, depth - 1)


def _largest(value: Any) -> int:
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0


def _of(owner: str) -> str:
    return owner if owner == THE_MODEL else f"layer {owner}"


def _check_known(owner: str, name: str, item: dict[str, Any], own: OwnCode | None) -> None:
    if name == "Lambda" and own is not None and _calls_a_function(item):
        return  # which is judged by itself
    if name in ("Lambda", "__lambda__"):
        raise ModelRefused(
            f"{_of(owner)} runs code stored in the file (Lambda)", expected="Keras's own layers", do=WITHOUT_LAMBDA
        )
    if name == "function":
        _check_function(owner, item, own)
        return
    module, registered = item.get("module"), item.get("registered_name")
    if own is not None and not _is_kerass(module) and own.find(name, registered) is not None:
        return
    if registered in (None, name) and _is_known(name, module):
        return
    if module in (None, "keras.layers") and registered is None and hasattr(keras.layers, name):
        what = "runs a program from outside the file" if name in OUTSIDE else "works on text, images or categories, or on files"
        raise ModelRefused(
            f"{_of(owner)} {what} ({name})", expected="layers of numbers", do="do that part before the readings are sent"
        )
    raise _not_known(f"{_of(owner)} is of a class of your own ({name.split('>')[-1]})", "layers and cells", module, own)


def _not_known(found: str, what: str, module: Any, own: OwnCode | None) -> ModelRefused:
    """The refusal of what is neither Keras's nor in the file of model.code."""
    if own is None:
        return ModelRefused(found, expected=f"Keras's own {what}", do=f"replace it by one of Keras's; or {advice(module)}")
    return ModelRefused(
        f"{found}, which {own.path} does not define",
        expected=f"Keras's own {what}, or those that the file of model.code defines ({own.defines})",
        do=f"add it to {own.path}, and write the file's new sha256 into model.code (sha256sum {own.path})",
    )


def _check_function(owner: str, item: dict[str, Any], own: OwnCode | None) -> None:
    """A function that a layer is given by name. Keras's own are named as text."""
    name = item.get("config")
    if own is None or not isinstance(name, str) or not callable(own.find(name, item.get("registered_name"))):
        raise _not_known(f"{_of(owner)} uses a function of your own ({name})", "functions", item.get("module"), own)


def _calls_a_function(item: dict[str, Any]) -> bool:
    """Whether a Lambda names a function, and does not hold one as bytes."""
    config = item.get("config")
    function = config.get("function") if isinstance(config, dict) else None
    return isinstance(function, dict) and function.get("class_name") == "function"


def _is_kerass(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "keras"


def _is_known(name: str, module: Any) -> bool:
    """Whether a class is listed. An .h5 file names no modules."""
    if name in VALUES:
        return True
    if module is None:
        return name in LAYERS or name in MODELS or name == "DTypePolicy" or any(_has(part, name) for part in PARTS.values())
    if module == "keras.layers":
        return name in LAYERS
    if module in MODEL_MODULES:
        return name in MODELS or (module == "keras" and name == "DTypePolicy")
    if module in OPERATION_MODULES:
        return name.isalnum()
    if module == "keras.src.ops.core":
        return name in CORE_OPERATIONS
    return module in PARTS and _has(PARTS[module], name)


def _has(part: Any, name: str) -> bool:
    return isinstance(getattr(part, name, None), type)


def _check_dtype(owner: str, item: dict[str, Any]) -> None:
    config = item.get("config")
    dtype = config.get("dtype") if isinstance(config, dict) else None
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("name", dtype.get("class_name")) if isinstance(inner, dict) else dtype.get("class_name")
    if dtype not in (None, *PRECISIONS) and item["class_name"] not in ("InputLayer", *VALUES):
        raise ModelRefused(
            f"{_of(owner)} computes in {dtype}",
            expected=f"one of {', '.join(PRECISIONS)}",
            do="save the model as it was before it was quantized",
        )


def _check_input(name: str, item: dict[str, Any]) -> None:
    config = item.get("config")
    if name != "InputLayer" or not isinstance(config, dict):
        return
    for kind in ("ragged", "sparse"):
        if config.get(kind):
            raise ModelRefused(f"the input {config.get('name')} is {kind}", expected="dense numbers", do=f"rebuild it without {kind}=True")


def _check_activations(owner: str, item: dict[str, Any], own: OwnCode | None) -> None:
    config = item.get("config")
    if not isinstance(config, dict):
        return
    for key in ACTIVATIONS:
        name = config.get(key)
        if own is not None and callable(own.find(name)):
            continue
        if isinstance(name, str) and (name.startswith("_") or not callable(getattr(keras.activations, name, None))):
            raise ModelRefused(
                f"{_of(owner)} has the {key} {name!r}, which Keras does not have",
                expected="an activation of Keras, such as relu or tanh",
                do="rebuild the layer with one of them",
            )


def _check_calls(owner: str, item: dict[str, Any]) -> None:
    nodes = item.get("inbound_nodes")
    for node in nodes if isinstance(nodes, list) else ():
        kwargs = node.get("kwargs") if isinstance(node, dict) else None
        if isinstance(kwargs, dict) and kwargs.get("training") not in NO_TRAINING:
            raise ModelRefused(
                f"{_of(owner)} is called with training=True, so it draws random numbers",
                expected="a model without chance",
                do="rebuild it without training=True",
            )
