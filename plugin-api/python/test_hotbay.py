"""Tests of the SDK without a host: `python3 -m unittest` in this folder."""
import enum
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import types
import unittest
from dataclasses import dataclass
from typing import Annotated, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

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


@dataclass(frozen=True)
class Fixed:
    names: List[str]


class Program:
    """A plugin that is served by a process, for the time of a `with`."""

    def __init__(self, source: str, **environment):
        self.source = "import hotbay, os, signal, asyncio, json\n" + source + "\nplugin.run()\n"
        self.environment = environment

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        here = os.path.dirname(os.path.abspath(hotbay.__file__))
        environment = {**os.environ, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1",
                       "HOTBAY_SOCKET_DIR": self.folder.name, **self.environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.source, "--config", "{}"], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.path = self.process.stdout.readline().strip().replace("http+unix://", "")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.log = self.process.communicate(timeout=60)[1].splitlines()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.folder.cleanup()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self.path)
        return connection

    def begin(self, path: str, headers: str = "", length: int = 0):
        """Sends a request without its body; returns the connection."""
        connection = self.connect()
        connection.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: {length}\r\n"
                           f"{headers}\r\n".encode())
        return connection

    def send(self, path: str, headers: str = ""):
        """Returns status and body of the response to a request."""
        with self.begin(path, headers + "Connection: close\r\n") as connection:
            return response(connection)


def response(connection: socket.socket):
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


class Serving(unittest.TestCase):
    def test_token_is_checked_before_the_body_arrives(self):
        source = 'plugin = hotbay.Plugin("a", "0.1.0")\nplugin.execute(lambda input, call: input)'
        with Program(source, HOTBAY_TOKEN="secret") as program:
            with program.begin("/execute", "Hotbay-Token: wrong\r\n", 1000) as connection:
                self.assertEqual(response(connection)[0], 401)
            with program.begin("/execute", "Connection: close\r\nHotbay-Token: secret\r\n",
                               2) as connection:
                connection.sendall(b"ab")
                self.assertEqual(response(connection), (200, "ab"))

    def test_call_of_a_contract_blocks_no_task(self):
        with Program("""
plugin = hotbay.Plugin("a", "0.1.0")
values = plugin.host.contract("key-value", "1.0")
plugin.endpoint("plain")(lambda input, call: values.get(key="a"))

@plugin.endpoint("task")
async def task(input, call):
    return values.get(key="a")

@plugin.endpoint("thread")
async def thread(input, call):
    return await asyncio.to_thread(values.get, key="a")
""") as program:
            status, body = program.send("/task")
            self.assertEqual(status, 500)
            expected = "await asyncio.to_thread(contract.get, …)"
            self.assertIn(expected, json.loads(body)["fault"]["message"])
            for path in ("/plain", "/thread"):
                status, body = program.send(path)
                self.assertEqual((status, json.loads(body)["code"]), (422, 503))
                self.assertIn("HOTBAY_HOST is not set", body)

    def test_host_without_a_valid_response_is_unavailable(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with Program("""
plugin = hotbay.Plugin("a", "0.1.0")
plugin.execute(lambda input, call: plugin.host.contract("b", "1.0").c())
""", HOTBAY_HOST=address) as program:
                for answer in (b"", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"):
                    with program.begin("/execute", "Connection: close\r\n") as connection:
                        host = listener.accept()[0]
                        while b"contract b 1.0" not in host.recv(4096):
                            pass
                        host.sendall(answer)
                        host.close()
                        status, body = response(connection)
                        self.assertEqual((status, json.loads(body)["code"]), (422, 503), body)

    def test_other_signals_do_not_stop_the_program(self):
        with Program("""
handled = []
plugin = hotbay.Plugin("a", "0.1.0")
plugin.configure(lambda _: [signal.signal(number, lambda found, _: handled.append(found))
                            for number in (signal.SIGUSR1, signal.SIGHUP)])
plugin.endpoint("handled")(lambda input, call: sorted(handled))
""") as program:
            expected = sorted([signal.SIGUSR1, signal.SIGHUP])
            for number in expected:
                program.process.send_signal(number)
            while (found := json.loads(program.send("/handled")[1])) != expected:
                self.assertLess(len(found), 2)
            self.assertIsNone(program.process.poll())
            program.process.terminate()
            self.assertEqual(program.process.wait(60), 0)

    def test_connections_are_limited(self):
        server = hotbay.Server(hotbay.Plugin("a", "0.1.0"))
        with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
            listener.setblocking(False)
            clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
            self.assertTrue(server.accept(listener, 2))
            threads = list(server.connections.values())
            self.assertEqual(len(threads), 2)
            for client in clients:
                client.close()
            for thread in threads:
                thread.join(60)

    def test_cancelled_call_leaves_the_queue(self):
        server = hotbay.Server(hotbay.Plugin("a", "0.1.0", max_concurrent_calls=1))
        server.slots.acquire()
        one, other = socket.socketpair()
        with one:
            call = hotbay.Call(hotbay.Connection(server, one), {})
            other.close()
            with self.assertRaises(hotbay.Cancelled):
                server.wait_for_slot(call)

    def test_cancelled_task_occupies_its_slot_until_it_ends(self):
        with Program("""
running, events = [], []
plugin = hotbay.Plugin("a", "0.1.0", max_concurrent_calls=1)

@plugin.endpoint("hold")
async def hold(input, call):
    running.append(1)
    events.append(asyncio.Event())
    while not events[0].is_set():
        try:
            await events[0].wait()
        except asyncio.CancelledError:
            pass
    running.pop()

@plugin.endpoint("running")
def count(input, call):
    return len(running)

@plugin.health
async def free():
    events[0].set()
""") as program:
            for path in ("/hold", "/running", "/running"):
                status, body = program.send(path, "Hotbay-Deadline-Ms: 200\r\n")
                self.assertEqual((path, status, json.loads(body)["code"]), (path, 422, 408))
            with program.connect() as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
                self.assertEqual(response(connection)[0], 200)
            self.assertEqual(program.send("/running"), (200, "0"))

    def test_log_lines_are_json(self):
        with Program("""
plugin = hotbay.Plugin("a", "0.1.0")
plugin.configure(lambda _: plugin.log.info("m", message="x", level="y", number=float("nan"),
                                           key={(1, 2): 3}, rows=3))
""") as program:
            pass
        line = json.loads(program.log[0], parse_constant=self.fail)
        self.assertEqual(line, {"msg": "m", "message": "x", "level": "info", "number": "nan",
                                "key": "{(1, 2): 3}", "rows": 3, "target": "a"})

    def test_invalid_output_is_refused(self):
        for arguments in ((b"x", None), ("x", "text/plain"), (7, "text/plain")):
            with self.assertRaises(TypeError):
                hotbay.Output(*arguments)


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
        self.assertEqual(hotbay.Type.of(Set[FrozenSet[int]]).text, "set<set<i64>>")
        unhashable = (Set[Point], Set[List[int]], Set[Optional[Set[int]]], Set[Tuple[dict, Point]])
        for hint in (complex, list, Dict[float, int], "text", *unhashable):
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
            (Set[Fixed], [{"names": []}], "unhashable"),
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
        for wrap in (staticmethod, classmethod):
            with self.assertRaisesRegex(TypeError, f"`A.f`: .* found a {wrap.__name__}"):
                plugin.contract("a", "1.0")(type("A", (), {"f": wrap(no_hint)}))


class Readme(unittest.TestCase):
    def test_examples_run(self):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "README.md")) as file:
            examples = re.findall(r"^```python\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)
        self.assertEqual(len(examples), 5)
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
