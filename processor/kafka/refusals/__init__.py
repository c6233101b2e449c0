"""Why the broker does not let this client work: one true reason for a name, a port, a certificate, a login or an advertised address.

Looks at the addresses of bootstrap.servers and at those that the broker advertises; sends no secret. Must not know a consumer, a
producer or a topic.
"""

from processor.kafka.refusals.addresses import advertised
from processor.kafka.refusals.explain import refusal
from processor.kafka.refusals.refusal_watch import Answer, RefusalWatch

__all__ = ["Answer", "RefusalWatch", "advertised", "refusal"]
