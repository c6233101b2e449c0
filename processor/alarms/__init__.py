"""From a sensor's scores to its alarms: which are raised, cleared and repeated, as a function of its records alone.

Pure arithmetic on columns: knows nothing of models, Kafka, bytes or settings. The other modules of this package are private to it, but for
rule, which the composition fills in.
"""

from processor.alarms.decide import Decider

__all__ = ["Decider"]
