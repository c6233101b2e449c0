"""Text with numbers that several rooms share."""


def counted(number: int, what: str) -> str:
    """'1 reading', '2,000 readings'."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
