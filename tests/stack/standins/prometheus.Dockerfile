# Stands in for prom/prometheus: Debian's build and busybox's wget, with the files, the user and the command where the official image has them.
FROM slotstream-standin/debian
COPY prometheus promtool wget /bin/
RUN mkdir -p /etc/prometheus /prometheus && chown 65534:65534 /prometheus
USER 65534
EXPOSE 9090
VOLUME ["/prometheus"]
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
