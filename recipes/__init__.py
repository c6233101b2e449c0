"""Three uses of stateful LSTMs, each from the code found on the web to a service on a Kafka topic. docs/recipes.md explains them."""
