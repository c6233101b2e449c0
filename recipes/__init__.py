"""Uses of recurrent models, each from the code that people have to a service on a Kafka topic. docs/recipes.md explains them."""
