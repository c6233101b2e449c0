"""processor.csv_io: a CSV as people have it, to readings. Every habit of CSV files is a row here."""

import csv
import datetime
import io
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.csv_io.csv_file import SEPARATORS, CsvFile, Form
from processor.csv_io.csv_rows import Reading, Readings, Wanted, value_of, with_missing
from processor.csv_io.timestamps import decide
from processor.errors import ConfigurationError


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "a.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path: Path, features=None, form=None, **wanted) -> list[Reading]:
    with CsvFile(path, form or Form()) as file:
        return list(Readings(file, Wanted(**{"key": "pump", **wanted} if "sensor" not in wanted else wanted), features))


def numbers(path: Path, **options) -> list[tuple]:
    return [(reading.line, reading.sensor, *reading.values) for reading in read(path, **options)]


TWO = [(2, "a", 1.5, 20.0), (3, "b", -2.5, 30.0)]


@pytest.mark.parametrize(
    "content",
    [
        "pump,x,y\na,1.5,20\nb,-2.5,30\n",
        "pump,x,y\r\na,1.5,20\r\nb,-2.5,30\r\n",
        "pump,x,y\ra,1.5,20\rb,-2.5,30",
        "pump;x;y\na;1,5;20\nb;-2,5;30\n",
        "pump;x;y\na;1,5;2,0e1\nb;-2,5;30,00\n",
        "pump;x;y\na;1.5;20\nb;-2.5;30\n",
        "pump\tx\ty\na\t1.5\t20\nb\t-2.5\t30\n",
        "pump|x|y\na|1.5|20\nb|-2.5|30\n",
        "pump x y\na  1.5 20\nb   -2.5 30  \n",
        '"pump","x","y"\n"a","1.5","20"\n"b","-2.5","30"\n',
        'pump,x,y\na,"1,5",20\nb,"-2,5",30\n',
        " pump , x ,y \n a , 1.5 , 20\nb, -2.5 ,30\n",
        "pump,x,y,\na,1.5,20,\nb,-2.5,30,\n",
        "pump,x,y\na,1.5,20,\nb,-2.5,30,,\n",
        "pump;x;y;;\na;1,5;20;;\nb;-2,5;30;;\n;;;;\n;;;;\n",
        "pump,x,y\na,1.5,20\nb,-2.5,30\n\n\n",
        "pump,x,y\na,1.5,20\nb,-2.5,30\n# the end\n",
        "pump,x,y\na,+1.5,2e1\nb,-2.5,3.0E+1",
        "\ufeffpump,x,y\na,1.5,20\nb,-2.5,30\n",
        "pump;x;y\na;1,5;20\nb;-2,5;30\n".encode("utf-16"),
        "\ufeffpump,x,y\na,1.5,20\nb,-2.5,30\n".encode("utf-16-be"),
    ],
)
def test_every_way_of_writing_two_readings_gives_the_same_two(content, write):
    assert numbers(write(content)) == TWO


def test_blank_lines_comments_and_excels_line_above_the_names_are_passed_over(write):
    path = write('sep=;\n# plant 7\n\npump;x;y\na;1,5;20\n\n# "stopped\nb;-2,5;30\n')
    assert numbers(path) == [(5, "a", 1.5, 20.0), (8, "b", -2.5, 30.0)]


def test_a_sensor_may_be_called_like_a_comment(write):
    assert numbers(write("pump,x\n#1,1.5\n")) == [(2, "#1", 1.5)]


def test_quoted_separators_quotes_and_newlines_belong_to_the_cell_and_lines_are_physical_ones(write):
    path = write('pump,"x, in\nmm",y\n"the ""big"", one\nbelow",1.5,20\nb,-2.5,30\n')
    with CsvFile(path) as file:
        assert file.columns == ["pump", "x, in\nmm", "y"]
    assert numbers(path) == [(3, 'the "big", one\nbelow', 1.5, 20.0), (5, "b", -2.5, 30.0)]


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "auto"), ("cp1252", "cp1252"), ("utf-16-le", "utf-16-le"), ("utf-8", "auto")])
def test_names_of_any_encoding(encoding, name, write):
    path = write("pump;Öldruck (°C)\nFörder;1,5\n".encode(encoding))
    with CsvFile(path, Form(encoding=name)) as file:
        assert file.columns == ["pump", "Öldruck (°C)"]
    assert numbers(path, form=Form(encoding=name)) == [(2, "Förder", 1.5)]


def test_a_line_in_another_encoding_far_down_is_named_after_all_rows_before_it(write):
    path = write(b"pump,x\n" + b"a,1.5\n" * 300_000 + "Förder,1\n".encode("latin-1"))
    lines = []
    with CsvFile(path) as file, pytest.raises(ConfigurationError, match="line 300002, is not utf-8") as told:
        lines.extend(row.line for row in file.rows())
    assert lines == list(range(2, 300_002))
    assert "--encoding" in told.value.do


def test_a_character_cut_at_the_samples_end_is_no_other_encoding(write):
    path = write("pump,x\n" + "ö,1\n" * 300_000)
    with CsvFile(path) as file:
        assert file.described == "UTF-8, separator comma"


def test_a_pipe_is_read_as_a_file_is(write):
    import os

    ends = os.pipe()
    os.write(ends[1], b"pump,x,y\na,1.5,20\nb,-2.5,30\n")
    os.close(ends[1])
    assert numbers(Path(f"/dev/fd/{ends[0]}")) == TWO
    os.close(ends[0])


@pytest.mark.full
def test_the_file_is_not_held(write):
    import tracemalloc

    path = write("pump,x,y\n" + f"{'a' * 200},1.5,20\n" * 60_000)
    tracemalloc.start()
    with CsvFile(path) as file:
        assert sum(1 for _ in Readings(file, Wanted(key="pump"), None)) == 60_000
        assert file.bytes_read == file.bytes_total == path.stat().st_size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


def test_thousands_of_columns(write):
    names = ",".join(f"c{i}" for i in range(5000))
    cells = ",".join(map(str, range(5000)))
    [reading] = read(write(f"pump,{names}\na,{cells}\n"))
    assert reading.values == list(map(float, range(5000)))


@pytest.mark.parametrize(
    ("content", "form", "names"),
    [
        ("1 2 0.5  \n1 3 0.25  \n", Form(header=False), ["1", "2", "3"]),
        ("a^b\n1^2\n", Form(separator="^"), ["a", "b"]),
        ("a;b\n1;2\n", Form(separator="semicolon"), ["a", "b"]),
        ("Temperature (C)\n1.5\n2.5\n", Form(), ["Temperature (C)"]),
        (",a,b\n0,1,2\n", Form(), ["column_1", "a", "b"]),
        ("date time;value\n2024-01-01 10:00;5\n", Form(), ["date time", "value"]),
        ("time;a, b\n1;1,5\n2;2,5\n", Form(), ["time", "a, b"]),
    ],
)
def test_names(content, form, names, write):
    with CsvFile(write(content), form) as file:
        assert file.columns == names


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"\n\n# only\n", "has no rows"),
        (b"pump,x\n", "no rows below its names"),
        (b"1,2\n3,4\n", "--no-header"),
        (b"Report of May\npump,x\na,1\nb,2\n", "remove lines above the names"),
        (b"PK\x03\x04\0\0", "is not text"),
        (b"\x1f\x8bzip", "zcat"),
        ("pump,x\na,1\n".encode("utf-16-le"), "--encoding utf-16-le"),
    ],
)
def test_what_is_no_csv_is_told(content, said, write):
    with pytest.raises(ConfigurationError, match=said):
        CsvFile(write(content))


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("content", [b",", b"#\n,,\n \n", b"pump,%s\na,1\n" % (b"x" * 140_000), b'"' + b"x" * 140_000])
def test_a_file_of_no_cells_or_too_large_ones_is_told(content, header, write):
    with pytest.raises(ConfigurationError, match="nothing that reads as a row, from line"):
        CsvFile(write(content), Form(header=header))


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_what_cannot_be_opened_is_told(name, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CsvFile(tmp_path / name)


# Rows that are no readings.


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,,2", "x is empty"),
        ("a,1,N/A", "y is 'N/A': expected a number"),
        ("a,null,2", "x is 'null': expected a number"),
        ("a,NaN,2", "x is 'NaN': expected a number"),
        ("a,inf,2", "x is 'inf': expected a number"),
        ("a,?,2", "x is '?': expected a number"),
        ("a,1_000,2", "x is '1_000': expected a number"),
        (
            'a,"1,234",2',
            "x is '1,234': expected a number (thousands are set apart in it: write 1234.56, or 1234,56 in a file of decimal commas)",
        ),
        ("a,true,2", "x is 'true': expected a number"),
        (",1,2", "pump is empty: expected a sensor's name"),
        ("a,1", "found 2 cells, expected 3"),
        ("a,1,2,3", "found 4 cells, expected 3"),
        ('a,"1,2\nb,3,4\nc,5,6', "found 2 cells, expected 3; it goes on to line 7: is a quote left open?"),
    ],
)
def test_a_row_that_is_no_reading_is_named_by_its_line(row, problem, write):
    found = [reading for reading in read(write(f"pump,x,y\na,1.5,2\na,1.5,2\n\n{row}\n")) if reading.problem]
    assert [(reading.line, reading.problem) for reading in found] == [(5, problem)]


def test_a_cell_too_large_to_be_one_is_told_with_its_line(write):
    path = write('pump,x\na,1\nb,"' + "1" * 200_000)
    with pytest.raises(ConfigurationError, match=r"line 3: field larger"):
        read(path)


# Decimal commas.


def test_a_decimal_comma_holds_for_the_whole_file(write):
    found = read(write("pump;x\na;1,5\na;1.234\na;1.234,5\na;1,234\n"), decimal="comma")
    assert [reading.values for reading in found] == [[1.5], [None], [None], [1.234]]


@pytest.mark.parametrize("separator", ["\t", ",", "|"])
def test_a_comma_that_may_be_of_thousands_is_refused(separator, write):
    path = write(f'pump{separator}x\na{separator}"1,234"\na{separator}"22,500"\n')
    with pytest.raises(ConfigurationError, match=r"1,234 in .* can be 1\.234 or 1234"):
        read(path)
    assert [reading.values for reading in read(path, decimal="comma")] == [[1.234], [22.5]]


def test_with_semicolons_three_digits_after_a_comma_are_decimals(write):
    assert numbers(write("pump;x\na;1,234\n")) == [(2, "a", 1.234)]


def test_points_and_commas_in_one_file_are_not_both_taken(write):
    assert [reading.values for reading in read(write("pump;x;y\na;1,5;1.5\n"))] == [[None, 1.5]]


# Columns.


def test_columns_are_taken_in_the_order_asked_for(write):
    path = write('pump,x,"y, in mm",z\na,1,2,3\n')
    assert [reading.values for reading in read(path, columns='z,"y, in mm"')] == [[3.0, 2.0]]
    assert [reading.values for reading in read(path, columns="y, in mm")] == [[2.0]]
    assert [reading.values for reading in read(path, columns=" z , x ")] == [[3.0, 1.0]]


def test_a_column_without_a_name_is_an_index_unless_asked_for(write):
    path = write(",pump,x\n0,a,1.5\n1,a,2.5\n")
    assert [reading.values for reading in read(path)] == [[1.5], [2.5]]
    assert [reading.values for reading in read(path, columns="column_1,x")] == [[0.0, 1.5], [1.0, 2.5]]


def test_the_settings_names_choose_the_columns_where_all_are_there(write):
    path = write("pump,note,x,motor.current\na,ok,1,2\n")
    assert [reading.values for reading in read(path, features=["motor.current", "x"])] == [[2.0, 1.0]]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"key": "pmup"}, r"--key: .* has no column pmup, the nearest is pump\. Expected: one of pump, Temperature, x, x"),
        ({"columns": "temperature"}, "the nearest is Temperature"),
        ({"columns": "Temperature,q"}, "has no column q"),
        ({"columns": "x"}, "has 2 columns x"),
        ({"timestamp": "time"}, "--timestamp: .* has no column time"),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_nearest(wanted, said, write):
    with pytest.raises(ConfigurationError, match=said):
        read(write("pump,Temperature,x,x\na,1,2,3\n"), **wanted)


def test_too_many_columns_are_told_with_what_the_file_has(write):
    with CsvFile(write("pump,x,y\na,1,2\n")) as file:
        readings = Readings(file, Wanted(key="pump"), None)
        with pytest.raises(ConfigurationError, match=r"model has 1 features, and these columns are taken: x, y \(2\).*--columns A,B"):
            readings.expect(1, "model has")


def test_a_column_of_words_that_nobody_asked_for_is_told(write):
    path = write("pump,x,status\na,1,ok\na,2,\n")
    with CsvFile(path) as file, pytest.raises(ConfigurationError, match=r"status of .* holds no numbers: 'ok'"):
        Readings(file, Wanted(key="pump"), None).expect_numbers()
    with CsvFile(path) as file:
        Readings(file, Wanted(key="pump", columns="x,status"), None).expect_numbers()


def test_one_sensor_for_all_rows(write):
    assert numbers(write("x\n1\n2\n"), sensor="seven") == [(2, "seven", 1.0), (3, "seven", 2.0)]


# Timestamps.

UTC_MS = 1_706_708_700_000  # 2024-01-31T13:45:00Z


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2024-01-31 13:45:00", UTC_MS),
        ("2024-01-31T13:45:00Z", UTC_MS),
        ("2024-01-31T13:45:00.5Z", UTC_MS + 500),
        ("2024-01-31T13:45:00.123456789Z", UTC_MS + 123),
        ("2024-01-31 13:45:00,25", UTC_MS + 250),
        ("2024-01-31T15:45+02:00", UTC_MS),
        ("2024-01-31 08:15:00-0530", UTC_MS),
        ("2024-01-31 14:45:00+01", UTC_MS),
        ("2024-01-31 13:45:00 UTC", UTC_MS),
        ("2024/01/31 13:45", UTC_MS),
        ("2024.01.31 13:45", UTC_MS),
        ("31.01.2024 13:45", UTC_MS),
        ("31.1.2024, 13:45:00", UTC_MS),
        ("31/01/2024 13.45.00", UTC_MS),
        ("01/31/2024 1:45 PM", UTC_MS),
        ("1/31/2024 1:45:00 p.m.", UTC_MS),
        ("01-31-2024 01:45pm", UTC_MS),
        ("31-01-2024 13:45", UTC_MS),
        ("2024-01-31", UTC_MS - 49_500_000),
        ("1706708700", UTC_MS),
        ("1706708700.5", UTC_MS + 500),
        ("1706708700,5", UTC_MS + 500),
        ("1.7067087E9", UTC_MS),
        ("1706708700000", UTC_MS),
        ("1706708700000000", UTC_MS),
        ("1706708700000000999", UTC_MS),
        ("1706708700.001", UTC_MS + 1),
    ],
)
def test_a_timestamps_form_is_told_from_its_column(text, ms):
    assert decide([text]).parse(text) == ms


@pytest.mark.parametrize(
    "text", ["12", "0", "20240131", "20240131134500", "202401311345", "-5", "noon", "31-Jan-2024", "31/01/24", "2024-01-31 1:45 CET"]
)
def test_what_could_be_anything_is_refused_with_the_options_that_tell(text):
    with pytest.raises(ConfigurationError, match="--timestamp-format"):
        decide(["", text])


def test_day_and_month_are_told_apart_by_a_day_above_12_or_not_at_all():
    assert decide(["03/02/2024", "13/02/2024"]).parse("03/02/2024") == decide(["2024-02-03"]).parse("2024-02-03")
    assert decide(["03/02/2024", "03/13/2024"]).parse("03/02/2024") == decide(["2024-03-02"]).parse("2024-03-02")
    for dates in (["03/02/2024 10:00", "04/02/2024 10:00"], ["13/02/2024", "02/13/2024"]):
        with pytest.raises(ConfigurationError, match="--timestamp-format"):
            decide(dates)


@pytest.mark.parametrize("text", ["", "soon", "31.02.2024 10:00", "2024-13-01", "2024-01-31 25:00", "1706708700"])
def test_a_later_cell_of_another_form_is_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 (it says more in each case)
        decide(["2024-01-31 13:45"]).parse(text)


@pytest.mark.parametrize("text", ["", "2024-01-31", "nan", "1e999", "9e17", "1_0"])
def test_a_later_cell_that_is_no_number_of_the_unit_is_none(text):
    with pytest.raises(ValueError, match="expected"):
        decide(["1706708700"]).parse(text)


def test_a_unit_and_a_form_can_be_named():
    assert decide(["0", "1"], unit="s").parse("1.5") == 1500
    assert decide(["12"], unit="us").parse("-1") == -1
    assert decide([], strptime="%d-%b-%y %H:%M").parse("31-Jan-24 13:45") == UTC_MS
    assert decide([], strptime="%d/%m/%Y %H:%M %z").parse("31/01/2024 14:45 +0100") == UTC_MS
    for form in ("%Y", "%Q"):
        with pytest.raises(ConfigurationError, match="--timestamp-format"):
            decide(["31-Jan-24"], strptime=form)


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2099, 1, 1)))
def test_a_time_reads_the_same_in_every_form(when):
    when = when.replace(microsecond=when.microsecond // 1000 * 1000, tzinfo=datetime.UTC)
    ms = (when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
    day_first = f"{when:%d.%m.}{when.year:04}{when: %H:%M:%S.%f}"
    for text in (when.isoformat(), str(when), str(ms), f"{ms / 1000:.3f}", f"{ms}000", day_first):
        assert decide([text]).parse(text) == ms


def test_date_and_time_in_two_columns(write):
    path = write("Date;Time;pump;x\n31/01/2024;13.45.00;a;1,5\n31/01/2024;;a;1,5\n;;a;1,5\n")
    found = read(path, timestamp="Date,Time")
    assert found[0].timestamp == UTC_MS
    assert [reading.problem for reading in found] == [None, "timestamp is empty", "timestamp is empty"]


def test_repeated_and_backward_timestamps_are_passed_on(write):
    found = read(write("pump,t,x\na,1706708700,1\na,1706708700,2\na,1706708699,3\n"), timestamp="t")
    assert [reading.timestamp for reading in found] == [UTC_MS, UTC_MS, UTC_MS - 1000]


# A reading as a record.


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1.234,56", "thousands are set apart"),
        ("1 234.5", "thousands are set apart"),
        ("45%", "a percent sign"),
        ("45,5 %", "a percent sign"),
        ("21.5 °C", "something stands behind the number"),
        ("21kPa", "something stands behind the number"),
        ("2024-01-31", "expected a number$"),
        ("broken", "expected a number$"),
    ],
)
def test_what_looks_like_a_number_and_is_none_is_told_why(text, why, write):
    found = read(write(f"pump;x\na;1,5\na;{text}\n"))
    assert re.search(why, found[1].problem.removesuffix(")"))


def test_a_column_of_such_numbers_is_refused_with_the_reason(write):
    with CsvFile(write("pump,x\na,45%\na,46%\n")) as file, pytest.raises(ConfigurationError, match=r"holds no numbers: '45%' .a percent"):
        Readings(file, Wanted(key="pump"), None).expect_numbers()


def test_a_cell_without_a_number_is_no_fault_where_something_stands_for_it(write):
    with CsvFile(write("pump,x,y\na,1,-200\na,?,\na,N/A,nan\na,1.234.5,2\na,1,45%\na,1e999,1\na,1,?\n"), Form()) as file:
        readings = Readings(file, with_missing(Wanted(key="pump"), (-200.0,)), None)
        readings.may_miss([True, False])
        found = list(readings)
    assert [reading.values for reading in found][:3] == [[1.0, None], [None, None], [None, None]]
    named = [reading.problem and reading.problem.partition(" is ")[0] for reading in found]
    assert named == ["y", "y", "y", "x", "y", "x", "y"]


def test_a_value_that_stands_for_a_missing_one_is_no_reading(write):
    table = "pump,x,y\na,1,-200\na,-200.0,2\na,-9999,2\na,1,2\na,?,2\n"
    found = read(write(table), missing=("-200", "-9999", "?"))
    assert [r.values for r in found] == [[1.0, None], [None, 2.0], [None, 2.0], [1.0, 2.0], [None, 2.0]]
    assert found[0].problem == "y is '-200', which stands for no number (--missing)"
    assert [r.problem is None for r in found] == [False, False, False, True, False]
    assert read(write(table))[0].problem is None


def test_rows_that_begin_with_their_own_number_without_a_name_are_told_so(write):
    with pytest.raises(ConfigurationError, match=r"begins with its own number.*row\.names"):
        CsvFile(write("pump,x\n1,a,1\n2,a,2\n3,a,3\n"))


def test_a_column_that_counts_the_rows_is_named_where_there_is_one_too_many(write):
    with CsvFile(write("nr,pump,x\n0,a,1\n1,a,1\n2,a,3\n")) as file, pytest.raises(ConfigurationError, match="; nr counts the rows"):
        Readings(file, Wanted(key="pump"), None).expect(1, "the model takes")


def test_a_hyphen_is_standard_input(write):
    path = write("pump,x\na,1\na,2\n")
    program = "from pathlib import Path; from processor.csv_io.csv_file import CsvFile; print([r.cells for r in CsvFile(Path('-')).rows()])"
    with path.open("rb") as stdin:
        found = subprocess.run([sys.executable, "-c", program], stdin=stdin, capture_output=True, text=True, check=True)
    assert found.stdout == "[['a', '1'], ['a', '2']]\n"


def reading(values, timestamp=None):
    return Reading(2, "a", timestamp, values, None)


def test_a_list_named_fields_or_float32():
    assert json.loads(value_of(reading([1.5, -2.0], 7), "json", None)) == {"timestamp": 7, "values": [1.5, -2.0]}
    assert json.loads(value_of(reading([1.5, None]), "json", None)) == {"values": [1.5, None]}
    named = value_of(reading([1.0, 2.0, 3.0], 7), "json", ["x", "motor.current", "motor.hot.oil"])
    assert json.loads(named) == {"timestamp": 7, "x": 1.0, "motor": {"current": 2.0, "hot": {"oil": 3.0}}}
    assert value_of(reading([1.5, -2.0], 7), "float32", None) == struct.pack("<2f", 1.5, -2.0)


def test_what_is_no_number_is_null_infinite_or_nan():
    assert value_of(reading([math.inf, -math.inf, None]), "json", None) == b'{"values":[1e999,-1e999,null]}'
    floats = struct.unpack("<3f", value_of(reading([None, math.inf, 1e300]), "float32", None))
    assert [math.isnan(floats[0]), *floats[1:]] == [True, math.inf, math.inf]


def test_a_row_whose_cells_are_not_the_names_has_no_values():
    assert value_of(reading([]), "json", None) == b'{"values":[]}'
    assert value_of(reading([]), "json", ["x", "y"]) == b"{}"
    assert value_of(reading([]), "float32", None) == b""


# Whatever csv.writer writes is read back.

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), min_size=1, max_size=6).filter(
    lambda text: text.strip() and text.strip()[0] != "#" and not text.strip()[0].isdigit()
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.full
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    data=st.lists(st.tuples(WORDS, FLOATS, FLOATS), min_size=1, max_size=8),
    separator=st.sampled_from([name for name in SEPARATORS if name != "space"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    terminator=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    comma=st.booleans(),
)
def test_any_table_is_read_back(tmp_path_factory, data, separator, quoting, terminator, encoding, comma):
    out = io.StringIO()
    table = csv.writer(out, delimiter=SEPARATORS[separator], quoting=quoting, lineterminator=terminator)
    table.writerow(["pump", "x", "y"])
    table.writerows((name, *(repr(v).replace(".", ",") if comma else v for v in values)) for name, *values in data)
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    path.write_bytes(out.getvalue().encode(encoding))
    form = Form(separator=separator)
    found = read(path, form=form, decimal="comma" if comma else "point")
    assert [(reading.sensor, *reading.values) for reading in found] == [(name.strip(), x, y) for name, x, y in data]
    assert [reading.problem for reading in found] == [None] * len(data)
