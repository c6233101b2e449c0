"""Diagnoses why the broker refuses this client: a name, a port, a certificate, a login or an advertised address.

Probes the addresses in bootstrap.servers and those that the broker advertises; sends no secrets. Must not know consumers, producers or
topics.
"""

from processor.kafka.refusals.addresses import advertised
from processor.kafka.refusals.explain import refusal
from processor.kafka.refusals.refusal_watch import Answer, RefusalWatch

__all__ = ["Answer", "RefusalWatch", "advertised", "refusal"]
