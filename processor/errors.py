"""All errors that slotstream raises on purpose, and the exit code of each.

Every message states what was found, what was expected and what to do; a message that ends the service also names its section in MANUAL.

    SlotstreamError              exit 1: failed, a restart may help (no broker, a broken disk)
    +-- ConfigurationError       exit 2: settings, topics, permissions or command line are wrong
    |   +-- ModelRefused         the model file cannot be served, and why
    |   +-- NotPermitted         the broker does not grant a permission that the service needs
    +-- Stopped                  exit 3: stopped on purpose, a restart will not help
        +-- Fenced               another process holds this instance's name
        +-- DeadLetterLimit      too many records are bad: a wrong deployment, not bad data
        +-- PolicyStop           a policy of the state table says fail
        +-- TopicGone            a topic was deleted while the service was running, and was not created again
        +-- UnknownSchemaStop    a record names a schema that the registry does not know
        +-- RepeatedAbort        five transactions in a row were aborted for the same reason
"""


MANUAL = "docs/operations/when-it-stops.md"


class SlotstreamError(Exception):
    """A failure. `found`, `expected` and `do` are sentences without a full stop.

    see: the anchor of the message's section in MANUAL; by default that of its class, if there is one.
    """

    exit_code = 1
    see = ""

    def __init__(self, found: str, *, expected: str, do: str, see: str = "") -> None:
        self.found, self.expected, self.do, self.see = found, expected, do, see or self.see
        super().__init__(f"{found}. Expected: {expected}. To do: {do}." + (f" See: {MANUAL}#{self.see}" if self.see else ""))


class ConfigurationError(SlotstreamError):
    exit_code = 2


class ModelRefused(ConfigurationError):
    see = "the-model-is-refused"


class NotPermitted(ConfigurationError):
    """kind: the name of the broker's error, if a call raised it before the missing permissions were determined."""

    kind = ""
    see = "the-broker-refuses"


class Stopped(SlotstreamError):
    exit_code = 3


class Fenced(Stopped):
    see = "another-process-has-the-name"


class DeadLetterLimit(Stopped):
    see = "too-many-records-are-bad"


class PolicyStop(Stopped):
    pass


class TopicGone(Stopped):
    see = "a-topic-is-gone"


class UnknownSchemaStop(Stopped):
    see = "a-schema-is-unknown"


class RepeatedAbort(Stopped):
    see = "transactions-are-aborted-again-and-again"
