"""TensorFlow and Keras, as every module of this room imports them: `from processor.model.backend import keras, tf`.

Responsible for being the one door: what a user has set for Keras, in the environment or in Keras's own file, stays outside (quiet.py).
"""

from processor.model.quiet import import_tensorflow

import_tensorflow()
import keras  # noqa: E402 (through the door only)
import tensorflow as tf  # noqa: E402
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2  # noqa: E402

__all__ = ["keras", "saved_model_pb2", "tf", "trackable_object_graph_pb2"]
