"""Tests of the SDK without a host: `python3 -m unittest` in this folder."""
import enum
import os
import re
import sys
import types
import unittest
from dataclasses import dataclass
from typing import Annotated, Dict, Iterator, List, Optional, Set, Tuple

sys.dont_write_bytecode = True
import hotbay


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Point:
    x: hotbay.U8
    label: Optional[str]
    color: Color = Color.RED

    def __post_init__(self):
        if self.x == 13:
            raise ValueError("x is 13")


class Types(unittest.TestCase):
    def test_hints_have_types(self):
        expected = [
            (int, "i64"), (float, "f64"), (bool, "bool"), (str, "string"), (bytes, "[u8]"),
            (None, "unit"), (dict, "json"), (hotbay.Json, "json"), (hotbay.U32, "u32"),
            (hotbay.Char, "char"), (Annotated[int, "a note"], "i64"), (List[int], "[i64]"),
            (Set[str], "set<string>"), (Optional[int], "i64?"), (Tuple[int, str], "(i64, string)"),
            (Tuple[int, ...], "[i64]"), (Dict[hotbay.U8, bool], "map<u8, bool>"),
            (Color, "enum Color { red, BLUE }"),
            (Point, "Point { x: u8, label: string?, color: enum Color { red, BLUE } = default }"),
        ]
        for hint, text in expected:
            self.assertEqual(hotbay.Type.of(hint).text, text)
        for hint in (complex, list, Dict[float, int], "text"):
            with self.assertRaises(TypeError, msg=hint):
                hotbay.Type.of(hint)

    def test_values_are_converted_both_ways(self):
        values = [
            (bytes, b"\x00\xff", [0, 255]), (hotbay.U64, 2**64 - 1, 2**64 - 1), (float, 2.0, 2),
            (Set[int], {7}, [7]), (Tuple[int, str], (1, "a"), [1, "a"]), (None, None, None),
            (Dict[int, str], {-1: "a"}, {"-1": "a"}), (Color, Color.BLUE, "BLUE"),
            (Point, Point(1, None), {"x": 1, "label": None, "color": "red"}),
        ]
        for hint, value, encoded in values:
            found = hotbay.Type.of(hint)
            self.assertEqual(found.decode(encoded), value)
            self.assertEqual(found.encode(value), encoded)
        self.assertEqual(hotbay.Type.of(Point).decode({"x": 1, "new": 2}), Point(1, None))

    def test_mismatches_name_the_place(self):
        values = [
            (hotbay.U8, 256, "expected u8, found 256"), (int, True, "expected i64, found True"),
            (int, 1.5, "expected i64"), (float, True, "expected f64"), (str, 7, "expected string"),
            (bytes, [256], "expected u8"), (hotbay.Char, "ab", "expected one character"),
            (Color, "green", "expected one of red, BLUE"), (Tuple[int, int], [1], "2 values"),
            (Dict[int, str], {"a": ""}, "expected a number"), (None, 0, "expected unit"),
            (List[Point], [{"x": -1}], "`x`: expected u8"), (Point, {}, "missing field `x`"),
            (Point, {"x": 13}, "invalid Point: x is 13"), (float, 10**400, "too large"),
        ]
        for hint, value, message in values:
            with self.assertRaises(hotbay.Mismatch) as caught:
                hotbay.Type.of(hint).decode(value)
            self.assertIn(message, str(caught.exception))


class Contracts(unittest.TestCase):
    def test_text_is_made_of_hints(self):
        plugin = hotbay.Plugin("a", "0.1.0")

        @plugin.contract("texts", "1.1")
        class Texts:
            def words(self, text: str, call: hotbay.Call) -> hotbay.U64: ...
            async def later(self, from_: Optional[int] = None) -> None: ...
            @hotbay.method(since="1.1", permission="read")
            def rows(self) -> Iterator[Point]: ...
            def _own(self, anything): ...

        lines = plugin.capabilities()["hotbay"]["contracts"][0]["text"].splitlines()
        self.assertEqual(lines[:3], ["contract texts 1.1", "fn words(text: string) -> u64",
                                     "async fn later(from: i64?) -> unit"])
        self.assertRegex(lines[3], re.escape("#since 1.1 #permission read stream fn rows() -> Po"))
        self.assertEqual(len(lines), 4)

    def test_second_function_of_a_name_is_refused(self):
        plugin = hotbay.Plugin("a", "0.1.0")
        for declare in (plugin.execute, plugin.health, plugin.endpoint("rows")):
            declare(print)
            with self.assertRaisesRegex(TypeError, "already declared"):
                declare(len)

    def test_invalid_declarations_are_reported(self):
        def no_hint(self, text) -> int: ...
        def no_result(self, text: str): ...
        def no_type(self, text: complex) -> int: ...
        def with_default(self, text: str = "") -> int: ...

        for function, message in [(no_hint, "`text` has no type hint"),
                                  (no_result, "`return` has no type hint"),
                                  (no_type, "no type for the hint"),
                                  (with_default, "its hint must be Optional")]:
            plugin = hotbay.Plugin("a", "0.1.0")
            with self.assertRaisesRegex(TypeError, message):
                plugin.contract("a", "1.0")(type("A", (), {"f": function}))


class Readme(unittest.TestCase):
    def test_examples_run(self):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "README.md")) as file:
            examples = re.findall(r"^```python\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)
        self.assertEqual(len(examples), 4)
        names = {"__name__": "readme"}
        sys.modules["readme"] = types.ModuleType("readme")  # Where `dataclasses` looks.
        for example in examples:
            exec(compile(example, "README.md", "exec"), names)


class Start(unittest.TestCase):
    def test_durations_are_numbers_or_text(self):
        durations = {0: 0, 1500000000: 1.5, "5m": 300, "1h30m": 5400, "300ms": 0.3, "0": 0}
        for given, expected in durations.items():
            self.assertAlmostEqual(hotbay.seconds(given), expected)
        for given in ("", "5", "m", "-5m", "5 m", "5m3"):
            with self.assertRaises(ValueError, msg=given):
                hotbay.seconds(given)

    def test_tokens_are_compared(self):
        self.assertTrue(hotbay._equal(b"ab", b"ab"))
        for given in (b"", b"a", b"abc", b"aa"):
            self.assertFalse(hotbay._equal(given, b"ab"))


if __name__ == "__main__":
    unittest.main()
