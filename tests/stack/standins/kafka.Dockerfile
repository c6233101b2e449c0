# Stands in for apache/kafka: the same version's jars on a Java runtime from a wheel, put where the official image has them.
FROM slotstream-standin/debian
COPY java /opt/java
COPY libs /opt/kafka/libs
COPY defaults /etc/kafka/docker
COPY kafka-run.sh /etc/kafka/docker/run
RUN useradd --uid 1000 --create-home appuser && mkdir -p /var/lib/kafka/data /mnt/shared/config /opt/kafka/config && \
    chown -R appuser /var/lib/kafka /mnt/shared/config /opt/kafka/config
USER appuser
EXPOSE 9092
VOLUME ["/var/lib/kafka/data", "/mnt/shared/config"]
CMD ["/etc/kafka/docker/run"]
