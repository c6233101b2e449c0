"""The columns that `try` gives the numbers of a prediction."""

from processor.csv_io.try_model import _columns
from processor.records import Output


def test_numbers_of_one_output_are_not_taken_for_another_output() -> None:
    outputs = [Output("dense", 0, 2, False), Output("dense_1", 2, 3, False), Output("dense_2", 3, 5, False)]
    assert _columns(outputs) == ["dense.1", "dense.2", "dense_1", "dense_2.1", "dense_2.2"]
    assert _columns(outputs[:1]) == ["1", "2"]
