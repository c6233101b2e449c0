#!/bin/bash
# Starts the broker of the stand-in. Kafka's own KafkaDockerWrapper, which the official image runs too, makes the broker's
# properties from the KAFKA_ variables and the mounted files, and prepares the data folder.
set -euo pipefail
export CLUSTER_ID=${CLUSTER_ID:-c2xvdHN0cmVhbS1zdGFuZA}
java=(/opt/java/bin/java -cp '/opt/kafka/libs/*' -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
# A data folder that is ready already, as after a restart, is all right, but the tool calls it a failure.
said=$("${java[@]}" kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) || [[ $said == *"already formatted"* ]] ||
  { echo "$said" >&2; exit 1; }
read -ra heap <<< "${KAFKA_HEAP_OPTS:--Xmx1G}"
exec "${java[@]}" "${heap[@]}" -XX:+UseSerialGC kafka.Kafka /opt/kafka/config/server.properties
