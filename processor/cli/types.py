"""The types of option values: parse text, or raise one sentence with what was found and expected."""

import argparse
import codecs


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number, 1 or more")
    return int(text)


def partition(text: str) -> int:
    return 0 if text == "0" else positive(text)


def several(text: str) -> int:
    """At least two, because partitions must be able to move."""
    if not text.isdecimal() or not 2 <= int(text) <= 20:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 2 to 20")
    return int(text)


def bins(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 50:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 2 to 50")
    return int(text)


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


def a_day(text: str) -> float:
    """1/day or 1."""
    return above_zero(text.removesuffix("/day"))


def speed(text: str) -> float:
    """60x or 60."""
    return above_zero(text.removesuffix("x"))


def separator(text: str) -> str:
    from processor.csv_io.csv_file import SEPARATORS

    text = "tab" if text == "\\t" else text
    if text != "auto" and text not in SEPARATORS and (len(text) != 1 or text.isalnum() or text in '"\r\n'):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, {', '.join(SEPARATORS)} or one character")
    return text


def encoding(text: str) -> str:
    try:
        return text if text == "auto" else codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, utf-8, utf-16, latin-1, cp1252 or another name") from None
