"""What a model of Keras 1 or 2 is made of, in the words of Keras 3.

Responsible for reading an old configuration: which layers it has, what each was told, and how they are joined. What it does not know
it refuses by the layer's name, since an option that is passed over could change every output. Not responsible for weights
(weights.py) nor for building anything (rebuild.py): nothing here calls Keras.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from processor.errors import ModelRefused
from processor.model.convert.graph import read_calls, read_refs
from processor.model.convert.old_model import OldLayer, OldModel
from processor.model.convert.options import ACTIVATIONS, Options, flag, list_of, number, one_of, positive, shape, single, whole
from processor.model.file.contents import TRAINING_ONLY, WITHOUT_LAMBDA

REBUILD = "replace it by a layer of Keras 3 in the program that made the model, and save it again"
MODELS = ("Sequential", "Model", "Functional")
OPERATIONS = ("TFOpLambda", "SlicingOpLambda")


def read_model(item: Any, name: str = "model") -> OldModel:
    """The model that a file's `model_config` describes. Raises ModelRefused for what cannot be rebuilt, whatever the text holds."""
    kind, config = _class_and_config(item)
    if kind not in MODELS:
        raise ModelRefused(
            f"the file holds a {kind}", expected="a Sequential or Functional model", do="build it as one of these two and save it again"
        )
    named = config if isinstance(config, dict) else {}
    name = str(named.get("name") or name)
    entries = config if isinstance(config, list) else named.get("layers")
    if not isinstance(entries, list) or not entries:
        raise ModelRefused(f"the model {name} has no layers", expected="a model with layers", do="save the whole model again")
    layers = tuple(_read_layer(entry) for entry in entries)
    _check_names(name, layers)
    if kind == "Sequential":
        return OldModel(name, _with_input_shape(layers, named))
    inputs, outputs = (read_refs(name, named.get(key)) for key in ("input_layers", "output_layers"))
    return OldModel(name, layers, inputs, outputs)


def _class_and_config(item: Any) -> tuple[str, Any]:
    if not isinstance(item, dict) or not isinstance(item.get("class_name"), str) or not isinstance(item.get("config"), (dict, list)):
        raise ModelRefused(
            f"the file's configuration has {str(item)[:60]!r} in it", expected="a class_name and a config", do="copy the file again"
        )
    return item["class_name"], item["config"]


def _check_names(model: str, layers: tuple[OldLayer, ...]) -> None:
    names = [layer.name for layer in layers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelRefused(f"the model {model} has two layers named {twice}", expected="a name for each", do="rename one and save it again")


def _with_input_shape(layers: tuple[OldLayer, ...], config: dict[str, Any]) -> tuple[OldLayer, ...]:
    """A chain whose first layer says what it reads. tf.keras keeps that beside the layers when the model was only built by a call."""
    built = config.get("build_input_shape") or (config.get("build_config") or {}).get("input_shape")
    if layers[0].input_shape is None and built is not None:
        return (replace(layers[0], input_shape=Options("the model", config).read(built, shape, "build_input_shape")), *layers[1:])
    return layers


def _read_layer(item: Any) -> OldLayer:
    saved_as, config = _class_and_config(item)
    name = str(item.get("name") or (config.get("name") if isinstance(config, dict) else None) or saved_as.lower())
    label = f"{name} ({saved_as})"
    calls = read_calls(label, item.get("inbound_nodes"), with_options=saved_as in (*OPERATIONS, "MultiHeadAttention"))
    if saved_as in MODELS and _is_kerass(item):
        model = read_model(item, name)
        frozen = isinstance(config, dict) and config.get("trainable") is False
        return OldLayer(name, saved_as, "Model", {}, not frozen, calls=calls, model=model, input_shape=_shape_of_model(model))
    kind = KINDS.get(saved_as)
    if kind is None or not _is_kerass(item) or not isinstance(config, dict):
        raise _unknown(name, saved_as, item)
    options = Options(label, config)
    layer = kind(options, OldLayer(name, saved_as, saved_as, {}, config.get("trainable") is not False, calls=calls))
    options.check_rest()
    # The layer in a Bidirectional reads what the Bidirectional reads.
    inner = layer.inner[0].input_shape if saved_as == "Bidirectional" else None
    return replace(layer, input_shape=layer.input_shape or options.input_shape() or inner)


def _is_kerass(item: dict[str, Any]) -> bool:
    """Files of Keras 2.13 and later say where a class is from; one's own layer may have a name of Keras's."""
    module = str(item.get("module") or "keras").split(".")[0]
    return module in ("keras", "tf_keras") and ">" not in str(item.get("registered_name"))


def _unknown(name: str, saved_as: str, item: dict[str, Any]) -> ModelRefused:
    if saved_as == "Lambda":
        return ModelRefused(f"layer {name} runs code stored in the file (Lambda)", expected="Keras's own layers", do=WITHOUT_LAMBDA)
    if saved_as == "Embedding":
        found, expected = f"layer {name} looks up tokens (Embedding)", "readings of float32 numbers"
    elif saved_as == "TensorFlowOpLayer":
        node = str((item.get("config") or {}).get("node_def"))[:60] if isinstance(item.get("config"), dict) else ""
        found, expected = f"layer {name} is a node of TensorFlow's graph ({saved_as} {node})".replace(" )", ")"), "layers only"
    elif not _is_kerass(item) or ">" in saved_as:
        found, expected = f"layer {name} is of a class of your own ({saved_as.split('>')[-1]})", "Keras's own layers"
    else:
        found, expected = f"layer {name} is a {saved_as}, which is not converted", f"one of {', '.join(sorted(KINDS))}"
    return ModelRefused(found, expected=expected, do=REBUILD)


def _shape_of_model(model: OldModel) -> tuple[int | None, ...] | None:
    if model.is_chain:
        return model.layers[0].input_shape
    return next((layer.input_shape for layer in model.layers if layer.kind == "InputLayer"), None)


# --- each class of an old file: what of its configuration becomes which argument

Kind = Callable[[Options, OldLayer], OldLayer]


def _plain(becomes: str, **wanted: Any) -> Kind:
    """A layer whose arguments are read one by one: name = (reader, default, the names it had before)."""

    def read(options: Options, layer: OldLayer) -> OldLayer:
        found = {argument: options.get((argument, *old), reader, default) for argument, (reader, default, *old) in wanted.items()}
        return replace(layer, kind=becomes, options=found)

    return read


def _fused(kind: Kind) -> Kind:
    """Keras 1 had two forms of a gated layer; `consume_less` tells which."""

    def read(options: Options, layer: OldLayer) -> OldLayer:
        parts = "output_dim" in options.config and options.config.get("consume_less") != "gpu"
        return replace(kind(options, layer), fused=not parts)

    return read


def _of_gpu(kind: str, **fixed: Any) -> Kind:
    """cuDNN's layers: what they compute was not a matter of options."""
    fixed |= {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}

    def read(options: Options, layer: OldLayer) -> OldLayer:
        plain = _plain(kind, units=(positive, ...), **SEQUENCES)(options, layer)
        return replace(plain, options={**plain.options, **fixed})

    return read


def _activation(options: Options, value: Any) -> Any:
    """A name of Keras 3, or the layer that an old file has in its place (`activation=LeakyReLU(0.1)`)."""
    if isinstance(value, dict) and value.get("class_name") in ("function", "builtin_function_or_method"):
        value = value.get("config")
    if isinstance(value, dict) and value.get("class_name") in ("LeakyReLU", "ELU", "ReLU", "ThresholdedReLU", "Softmax"):
        return _read_layer(value)
    if value is not None and (not isinstance(value, str) or value not in ACTIVATIONS):
        raise ModelRefused(
            f"layer {options.label} has the activation {str(value)[:60]!r}", expected="one of " + ", ".join(ACTIVATIONS), do=REBUILD
        )
    return ACTIVATIONS[value] if value else "linear"


def _time_distributed(options: Options, layer: OldLayer) -> OldLayer:
    inner = _read_layer(options.raw("layer"))
    return replace(layer, inner=(inner,), trainable=layer.trainable and inner.trainable)


def _bidirectional(options: Options, layer: OldLayer) -> OldLayer:
    forward, other = _read_layer(options.raw("layer")), options.raw("backward_layer", None)
    backward = _read_layer(other) if other is not None else replace(forward)
    for inner in (forward, backward):
        if inner.kind not in ("LSTM", "GRU", "SimpleRNN"):
            raise ModelRefused(f"layer {layer.label} holds a {inner.saved_as}", expected="LSTM, GRU or SimpleRNN", do=REBUILD)
    mode = options.get(("merge_mode",), one_of("concat", "sum", "mul", "ave", None), "concat")
    return replace(layer, inner=(forward, backward), options={"merge_mode": mode, "own_backward": other is not None})


MERGES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate"}


def _merge(options: Options, layer: OldLayer) -> OldLayer:
    """Keras 1's one class for all of them. In a Sequential it holds the branches that it joins: such a model has several inputs."""
    for key in ("mode_type", "concat_axis", "dot_axes", "arguments", *(f"output_{what}" for what in ("shape", "mask"))):
        options.raw(key, None)
        options.raw(f"{key}_type", None)
    if options.config.get("layers"):
        found, do = f"layer {layer.label} joins several inputs", "build the model with the Functional API of Keras 3 and save it again"
        raise ModelRefused(found, expected="layers one after another", do=do)
    mode = options.get(("mode",), one_of(*MERGES), "sum")
    axis = options.read(options.config.get("concat_axis", -1), whole, "concat_axis")
    return replace(layer, kind=MERGES[mode], options={"axis": axis} if mode == "concat" else {})


def _batch_normalization(options: Options, layer: OldLayer) -> OldLayer:
    """Keras 1's modes 1 and 2 normalise by what is in the batch, also when predicting: a sensor's output would depend on its neighbours."""
    options.must("mode", 0, "normalises by the batch that it is in")
    return _plain("BatchNormalization", **NORMALISED, momentum=(number, 0.99))(options, layer)


def _operation(options: Options, layer: OldLayer) -> OldLayer:
    function = options.raw("function")
    if not isinstance(function, str):
        raise ModelRefused(f"layer {layer.label} has no function", expected="the name of an operation", do="copy the file again")
    return replace(layer, kind="Operation", options={"function": function})


def _normalization(options: Options, layer: OldLayer) -> OldLayer:
    """Its numbers are weights, or, where it was told them, options."""
    mean, variance = options.raw("mean", None), options.raw("variance", None)
    plain = _plain("Normalization", axis=(list_of(whole), -1), invert=(flag, False))(options, layer)
    fixed = {"mean": mean, "variance": variance} if mean is not None else {}
    return replace(plain, options={**plain.options, **fixed})


def _multi_head_attention(options: Options, layer: OldLayer) -> OldLayer:
    for key in ("query_shape", "key_shape", "value_shape", "softmax_robust_masking"):
        options.raw(key, None)
    if options.raw("attention_axes", None) not in (None, 1, [1]):
        raise ModelRefused(f"layer {layer.label} attends along several axes", expected="one, of time", do=REBUILD)
    return _plain(
        "MultiHeadAttention", num_heads=(positive, ...), key_dim=(positive, ...), value_dim=(single(positive, none=True), None),
        use_bias=(flag, True), output_shape=(list_of(positive), None),
    )(options, layer)  # fmt: skip


def _nothing(options: Options, layer: OldLayer) -> OldLayer:
    """A layer that works in training only: whatever its options are, its output is its input."""
    for key in options.config:
        options.raw(key, None)
    return replace(layer, kind="Identity")


def _input(options: Options, layer: OldLayer) -> OldLayer:
    given = options.input_shape()
    if given is None:
        found = f"layer {layer.label} does not say what it reads"
        raise ModelRefused(found, expected="a batch_input_shape", do="save the whole model again")
    return replace(layer, input_shape=given)


SEQUENCES = {"return_sequences": (flag, False), "return_state": (flag, False), "go_backwards": (flag, False), "stateful": (flag, False)}
RECURRENT = {
    "units": (positive, ..., "output_dim"), "activation": (_activation, "tanh"), "use_bias": (flag, True), **SEQUENCES,
}  # fmt: skip
# Old files that do not name it were made when it was Keras's default.
GATED = {**RECURRENT, "recurrent_activation": (_activation, "hard_sigmoid", "inner_activation")}
DENSE = {"units": (positive, ..., "output_dim"), "activation": (_activation, "linear"), "use_bias": (flag, True, "bias")}
# Said outright: what Keras 3 does without it depends on a file in the home of whoever converts.
CHANNELS = {"data_format": (one_of("channels_last", "channels_first"), "channels_last")}
CONV = {
    "filters": (positive, ..., "nb_filter"), "kernel_size": (single(positive), ..., "filter_length"),
    "strides": (single(positive), 1, "subsample_length"), "padding": (one_of("valid", "same", "causal"), "valid", "border_mode"),
    "dilation_rate": (single(positive), 1, "atrous_rate"), "groups": (positive, 1), "activation": (_activation, "linear"),
    "use_bias": (flag, True, "bias"), **CHANNELS,
}  # fmt: skip
POOL = {
    "pool_size": (single(positive), 2, "pool_length"), "strides": (single(positive, none=True), None, "stride"),
    "padding": (one_of("valid", "same"), "valid", "border_mode"), **CHANNELS,
}  # fmt: skip
GLOBAL = {**CHANNELS, "keepdims": (flag, False)}
AXIS = {"axis": (whole, -1)}
NORMALISED = {"axis": (single(whole), -1), "epsilon": (number, 1e-3), "center": (flag, True), "scale": (flag, True)}
KINDS: dict[str, Kind] = {
    "InputLayer": _input,
    "LSTM": _fused(_plain("LSTM", **GATED)),
    "GRU": _fused(_plain("GRU", **GATED, reset_after=(flag, None))),
    "SimpleRNN": _plain("SimpleRNN", **RECURRENT),
    "CuDNNLSTM": _of_gpu("LSTM"),
    "CuDNNGRU": _of_gpu("GRU", reset_after=True),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "Dense": _plain("Dense", **DENSE),
    "TimeDistributedDense": _plain("Dense", **DENSE),
    "Conv1D": _plain("Conv1D", **CONV),
    "Convolution1D": _plain("Conv1D", **CONV),
    "AtrousConvolution1D": _plain("Conv1D", **CONV),
    "BatchNormalization": _batch_normalization,
    "BatchNormalizationV1": _batch_normalization,
    "LayerNormalization": _plain("LayerNormalization", **NORMALISED),
    "Normalization": _normalization,
    "MultiHeadAttention": _multi_head_attention,
    **dict.fromkeys(OPERATIONS, _operation),
    "Activation": _plain("Activation", activation=(_activation, ...)),
    **dict.fromkeys(sorted(TRAINING_ONLY), _nothing),
    "Flatten": _plain("Flatten", **CHANNELS),
    "RepeatVector": _plain("RepeatVector", n=(positive, ...)),
    "Reshape": _plain("Reshape", target_shape=(list_of(whole), ...)),
    "Permute": _plain("Permute", dims=(list_of(positive), ...)),
    "MaxPooling1D": _plain("MaxPooling1D", **POOL),
    "AveragePooling1D": _plain("AveragePooling1D", **POOL),
    "GlobalMaxPooling1D": _plain("GlobalMaxPooling1D", **GLOBAL),
    "GlobalAveragePooling1D": _plain("GlobalAveragePooling1D", **GLOBAL),
    "UpSampling1D": _plain("UpSampling1D", size=(single(positive), 2, "length")),
    "ZeroPadding1D": _plain("ZeroPadding1D", padding=(list_of(whole), 1)),
    "Cropping1D": _plain("Cropping1D", cropping=(list_of(whole), 1)),
    "Masking": _plain("Masking", mask_value=(number, 0.0)),
    "LeakyReLU": _plain("LeakyReLU", negative_slope=(number, 0.3, "alpha")),
    "ELU": _plain("ELU", alpha=(number, 1.0)),
    "ReLU": _plain("ReLU", max_value=(number, None), negative_slope=(number, 0.0), threshold=(number, 0.0)),
    "ThresholdedReLU": _plain("ReLU", threshold=(number, 1.0, "theta")),
    "PReLU": _plain("PReLU", shared_axes=(list_of(whole), None)),
    "Softmax": _plain("Softmax", **AXIS),
    "Merge": _merge,
    "Concatenate": _plain("Concatenate", **AXIS),
    **{name: _plain(name) for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
}
