"""The one exception by which a codec turns a record down."""

DETAIL_MAX = 300


class RejectError(Exception):
    """The record is a dead letter: one of records.ERRORS, and a sentence for the one who mends the sender."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail[:DETAIL_MAX]
