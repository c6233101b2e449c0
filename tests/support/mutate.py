"""Inputs that nobody would send on purpose: JSON records built with faults in them, and any bytes changed a little.

Everything is drawn from the `random` that is handed over, so an input can be made again from its seed.
"""

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

RECORD_MS = 1_700_000_000_000
AHEAD_MS = 3_600_000

# Where a float64, a float32, an integer or a decoder's limit ends, and what only looks like a number.
NUMBERS = [
    b"0", b"-0", b"-0.0", b"0.0e-0", b"1E400", b"-1e400", b"1e-400", b"-1e-400", b"1e308", b"1.8e308", b"1e309", b"4.9e-324", b"2.4e-324",
    b"2.5e-324", b"1e-46", b"1.4e-45", b"7.0064923216240853e-46", b"7.0064923216240854e-46", b"3.4028234663852886e38",
    b"3.4028235677973362e38", b"3.4028235677973366e38", b"-3.4028235677973366e38", b"1e39", b"9" * 39, b"9" * 300, b"9" * 301, b"9" * 308,
    b"1" + b"0" * 308, b"1" + b"0" * 309, b"9" * 400, b"-" + b"9" * 400, b"9" * 4300, b"9" * 4301, b"0." + b"0" * 400 + b"1",
    b"0." + b"3" * 400, b"18446744073709551615", b"18446744073709551616", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"-9223372036854775809", b"9007199254740991", b"9007199254740992", b"9007199254740993", b"-9007199254740992",
    b"-9007199254740993", b"-9007199254740992.5", b"1.000000059604644775390625",
    b"1.00000005960464477539062500000000000000000000000000000000000001", b"1.00000017881393432617187499",
    b"1.00000017881393432617187500000001", b"8388608.5", b"16777217", b"16777219", b"33554434.0000001", b"9007199254740993.0",
    b"9007199254740993e0", b"123456789012345678901234567890e-20", b"1e5", b"1E+5", b"1e-5", b"2.2250738585072011e-308",
    b"1e00000000000000000001", b"1e99999999999999999999", b"1e-99999999999999999999", b"0e999999999999", b"01", b"-01", b"1.", b".5",
    b"+1", b"1e", b"1e+", b"--1", b"0x1", b"1_0", b"1,5", b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"true", b"false", b"null",
    b"-", b"", b'"1"', b"[1]", b"{}", b"\xd9\xa3", b"1 2", b"1\x0b", b"1\xc2\xa0",
]  # fmt: skip
STRINGS = [
    b"", b"x", b"\\u0041", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\ud800\\ud800", b"\\udc00\\ud800", b"\\ud800x",
    b"\\uD83D\\uDE00", b"\\q", b"\\", b"\\u", b"\\u00", b"\\u00zz", b"\\u 041", b"\\u+041", b"\\n\\t\\/\\b\\f\\r\\\"\\\\", b"\n", b"\t",
    b"\0", b"\x1f", b"\x7f", "é\u2028😀".encode(), b"\xed\xa0\x80", b"\xff", b"\xc3", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xef\xbb\xbf",
    b"[[[[", b"]}", b"\\u0000",
]  # fmt: skip
TIMESTAMPS = [
    b"null", b"0", b"-1", b"-0.5", b"1.7e12", b"true", b"[]", b"{}", b'""', b'"x"', b"%d" % (RECORD_MS + AHEAD_MS),
    b"%d.9" % (RECORD_MS + AHEAD_MS), b"%d" % (RECORD_MS + AHEAD_MS + 1), b"%de0" % (RECORD_MS + AHEAD_MS + 1), b'"2023-11-14T22:13:20Z"',
    b'"2023-11-14"', b'"2023-11-14 22:13"', b'"2023-11-14T22:13:20.123456789+14:00"', b'"20231114T221320"', b'"2023-W46-2"',
    b'"2023-W53-7"', b'"0001-01-01"', b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59.999999-23:59"', b'"2023-02-29"',
    b'"2023-11-14T24:00"', b'"2023-11-14T22:13:60Z"', b'"2023-11-14T22:13:20,5"', b'"2023-11-14T22:13:20+00:00:00.000001"',
    b'"2023-11-14T22:13:20+24:00"', b'"2023-11-14\\u0054 22:13"', b'"\xd9\xa2023-11-14"', b'"2023-11-14\xe2\x80\xa822:13"',
    b'"2023-11-14T22:13:20z"', b'"2023-11-14T"', b'"-001-01-01"', b'"12023-01-01"', b'"1700000000000"',
    b"1700000000", b'"1700000000.5"', b"1700000000000000", b"1700000000000000000", b'"+1700000000000"', b'"-1"', b'"1796011990000"',
    b'"1700000000000."', b'".5"', b'"++1"', b'"%b"' % (b"9" * 40), b'"%b"' % (b"9" * 41), b'"\xd9\xa1\xd9\xa7"', b'"1e12"',
    b"%d" % (RECORD_MS - 315_576_000_000), b"%d" % (RECORD_MS - 315_576_000_001), b"%d.5" % (RECORD_MS - 315_576_000_001),
]  # fmt: skip
TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\xef\xbb\xbf", b"\0", b"\xff", b"\xc3", b" ", b"\n", b"\r", b"\x0b", b"\xc2\xa0",
    b"/**/", b"//", b"'", b"e", b"E", b"-", b"+", b".", b"0", b"null", b"NaN", b"\xe2\x80\xa8", b'"values":', b'"timestamp":', b",{}",
    b",[]", b"\xed\xb0\x80",
]  # fmt: skip
EDGES = [0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**53, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, -(10**30)]
_NUMBER = re.compile(rb"-?\d[\d.eE+-]*")


class Mutator:
    def __init__(self, random: Random) -> None:
        self.random = random

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def one(self, of: Sequence[Any]) -> Any:
        return of[int(self.random.random() * len(of))]

    def below(self, n: int) -> int:
        return int(self.random.random() * n)

    # -- JSON -------------------------------------------------------------------------------------------------------------

    def json_record(self, names: Sequence[str], features: int, timestamp: str = "timestamp") -> bytes:
        """An object as a sender writes one, with a fault here and there. names: dotted fields; none: a list `values`.

        timestamp: the field of the time, at most one level deep.
        """
        members = self._fields(names) if names else [(b"values", self._values(features))]
        if self.chance(0.5):
            outer, dot, inner = (timestamp, "", "") if self.chance(0.1) else timestamp.partition(".")
            time = self._timestamp()
            members.append((outer.encode(), self._object([(inner.encode(), time)]) if dot else time))
        while self.chance(0.25):
            members.append((self._name(), self.json_value(3)))
        while self.chance(0.06):  # a name that comes twice
            name, _ = self.one(members)
            members.insert(self.below(len(members) + 1), (name, self.one([self.json_value(2), self._number(), self._values(features)])))
        if self.chance(0.3):
            self.random.shuffle(members)
        if self.chance(0.04):
            del members[self.below(len(members))]
        return self._object(members)

    def json_value(self, depth: int) -> bytes:
        kind = self.below(7 if depth > 0 else 4)
        if kind == 0:
            return self._string()
        if kind < 3:
            return self._number(bad=0.2)
        if kind == 3:
            return self.one([b"null", b"true", b"false"])
        if kind == 4:
            levels = self.one([1, 5, 90, 97, 98, 99, 100, 101, 102, 150, 900, 3000]) if self.chance(0.1) else 1
            opening, closing = self.one([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]")])
            return opening * levels + self.json_value(depth - 1) + closing * levels
        if kind == 5:
            return b"[" + b",".join(self.json_value(depth - 1) for _ in range(self.below(4))) + b"]"
        return self._object([(self._name(), self.json_value(depth - 1)) for _ in range(self.below(4))])

    def _fields(self, names: Sequence[str]) -> list[tuple[bytes, bytes]]:
        tree: dict[str, dict[str, bytes] | bytes] = {}
        for name in names:
            as_written = '"' in name or self.chance(0.1)
            outer, _, inner = (name.strip('"'), "", "") if as_written else name.partition(".")
            value = self._number(bad=0.05)
            if not inner:
                tree[outer] = value
            else:
                below = tree.setdefault(outer, {})
                if isinstance(below, dict):
                    below[inner] = value
        members = []
        for name, value in tree.items():
            text = value
            if isinstance(value, dict):
                inner = [(key.encode(), number) for key, number in value.items()]
                if self.chance(0.1):
                    inner.insert(self.below(len(inner) + 1), (self.one([b"x", inner[0][0]]), self.json_value(2)))
                text = self.json_value(1) if self.chance(0.02) else self._object(inner)
            members.append((name.encode(), text))
        return members

    def _values(self, features: int) -> bytes:
        if self.chance(0.03):
            return self.json_value(3)
        if self.chance(0.6):
            return self._step(features)
        return b"[" + b",".join(self._step(features) for _ in range(self.below(6))) + b"]"

    def _step(self, features: int) -> bytes:
        if self.chance(0.04):
            features += self.one([-features, -1, 1, 2])
        return b"[" + b",".join(self._number(bad=0.05) for _ in range(features)) + b"]"

    def _number(self, bad: float = 0.1) -> bytes:
        if self.chance(bad):
            return self.one(NUMBERS)
        kind = self.below(5)
        if kind == 0:
            return b"%d" % (self.below(20001) - 10000)
        if kind == 1:
            return b"%.3f" % self.random.gauss(0.0, 100.0)
        if kind == 2:
            return repr(self.random.uniform(-1.0, 1.0) * 10.0 ** (self.below(80) - 40)).encode()
        if kind == 3:
            digits = str(self.random.getrandbits(1 + self.below(200)))
            at = 1 + self.below(len(digits))
            exponent = f"e{self.below(120) - 80}" if self.chance(0.7) else ""
            return f"{digits[:at]}{'.' if digits[at:] else ''}{digits[at:]}{exponent}".encode()
        return b"-%d.%d" % (self.below(1000), self.random.getrandbits(60))

    def _timestamp(self) -> bytes:
        if self.chance(0.5):
            return b"%d" % (RECORD_MS - self.below(10**9))
        if self.chance(0.7):
            return self.one(TIMESTAMPS)
        if self.chance(0.5):
            return self.mutated(self.one(TIMESTAMPS))
        return self._number(bad=0.8)

    def _string(self) -> bytes:
        text = self.one(STRINGS) if self.chance(0.9) else b"x" * self.one([10, 1000, 70_000])
        return b'"' + text + b'"'

    def _name(self) -> bytes:
        return self.one([b"x", b"", b"value", b"values", b"timestamp", b"motor", b"temperature", self.one(STRINGS)])

    def _object(self, members: Sequence[tuple[bytes, bytes]]) -> bytes:
        comma, colon = (b",", b":") if self.chance(0.9) else (b" ,\r\n", b"\t: ")
        return b"{" + comma.join(b'"' + self._spelled(name) + b'"' + colon + value for name, value in members) + b"}"

    def _spelled(self, name: bytes) -> bytes:
        """The same name; now and then with characters escaped."""
        if not self.chance(0.05) or b"\\" in name or not name.isascii():
            return name
        form = self.one([b"\\u%04x", b"\\u%04X"])
        return b"".join(form % c if self.chance(0.5) else bytes([c]) for c in name)

    # -- any bytes --------------------------------------------------------------------------------------------------------

    def mutated(self, value: bytes, others: Sequence[bytes] = ()) -> bytes:
        """One to four changes: bits, spans, lengths, splices with another input, words that matter to parsers."""
        for _ in range(1 + self.below(4)):
            value = self._changed(value, others)
        return value

    def _changed(self, value: bytes, others: Sequence[bytes]) -> bytes:
        a, b = sorted((self.below(len(value) + 1), self.below(len(value) + 1)))
        kind = self.below(11)
        if kind == 0 and value:
            at = self.below(len(value))
            return value[:at] + bytes([value[at] ^ (1 << self.below(8))]) + value[at + 1 :]
        if kind == 1 and value:
            at = self.below(len(value))
            return value[:at] + bytes([self.below(256)]) + value[at + 1 :]
        if kind == 2:
            return value[:a] + value[min(b, a + 1 + self.below(8)) :]
        if kind == 3:
            return value[:a]
        if kind == 4:
            return value[:b] + value[a:b] + value[b:]
        if kind == 5:
            return value[:a] + self.one(TOKENS) + value[a:]
        if kind == 6 and others:
            other = self.one(others)
            return value[:a] + other[self.below(len(other) + 1) :]
        if kind == 7:
            return value[:a] + self.random.randbytes(1 + self.below(12)) + value[a:]
        if kind == 8:
            found = list(_NUMBER.finditer(value))
            if found:
                number = self.one(found)
                return value[: number.start()] + self.one(NUMBERS) + value[number.end() :]
        if kind == 9:
            return value[:a] + self.one(STRINGS) + value[b if self.chance(0.3) else a :]
        if kind == 10 and self.chance(0.02):
            return value[:a] + self.one([b"[" * 100_000, b"9" * 100_000, b" " * 100_000, b'"' * 1001, b'{"a":' * 2000]) + value[a:]
        return value + self.one(TOKENS)

    # -- values of other kinds --------------------------------------------------------------------------------------------

    def strange(self) -> object:
        """A value of JSON where another kind was expected."""
        return self.one([None, True, "", "x", 1.5, [], {}, [1], {"a": 1}, "0x10", "-1", "1e3", "\x00", "9" * 5000, 1e308, *EDGES])

    def facts(self, text: str) -> str:
        """A JSON object with one value replaced, removed or added; or its text changed."""
        found = json.loads(text)
        if not isinstance(found, dict) or self.chance(0.4):
            return self.mutated(text.encode()).decode(errors=self.one(["replace", "surrogateescape"]))
        key = self.one(list(found))
        if self.chance(0.2):
            del found[key]
        else:
            found[self.one([key, key, key, "more"])] = self.strange()
        return json.dumps(found)
