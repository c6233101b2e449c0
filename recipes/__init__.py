"""Uses of recurrent models, each from the code that people have to a service on a Kafka topic. docs/recipes.md explains them."""

from processor.model import backend as backend  # first: Keras on TensorFlow, whatever the environment says
