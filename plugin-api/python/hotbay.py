"""The SDK of hotbay plugins in Python: serves functions to a host, as a program.

    import hotbay

    plugin = hotbay.Plugin("upper", "0.1.0")

    @plugin.execute
    def execute(input: bytes, call: hotbay.Call) -> str:
        return hotbay.text(input).upper()

    if __name__ == "__main__":
        plugin.run()

One file without dependencies, for Python 3.9 and later. It implements PROTOCOL.md.

Each connection of the host has a thread, on which plain functions run. Functions that return an
awaitable run as tasks of one asyncio loop; a task is cancelled when its call is. Limits: 256
connections, `max_concurrent_calls` of them in calls, and `max_body_bytes` for a request.

Few modules are imported, some only when needed, so that a program starts fast.
"""
import json
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from binascii import a2b_base64, b2a_base64
from contextvars import ContextVar

__all__ = ["Call", "CallError", "Cancelled", "ConfigError", "Error", "Output", "Plugin", "method",
           "text"]

MAX_CONNECTIONS = 256
MAX_PENDING = 512
MAX_HEAD_BYTES = 64 << 10
MAX_BATCH = 100
MAX_DEPTH = 32
DRAIN_TIMEOUT_SECONDS = 5
TOKEN_TIMEOUT_SECONDS = 10
ACCEPT_RETRY_SECONDS = 0.05
CANCELLED_GRACE_MS = 200
MAX_WAIT_SECONDS = 24 * 60 * 60  # Longer waits are repeated.
SLOT_POLL_SECONDS = CANCEL_POLL_SECONDS = 0.05
HOST_CONNECT_SECONDS = 2
MAX_RESPONSE_BYTES = 256 << 20  # Of the host.
DEFAULT_IDLE_TIMEOUT = "1h"
JSON_TYPE, TEXT_TYPE = "application/json", "text/plain; charset=utf-8"
BYTES_TYPE, LINES_TYPE = "application/octet-stream", "application/x-ndjson"
# Without it, characters that are not base64 would be ignored.
STRICT = {"strict_mode": True} if sys.version_info >= (3, 11) else {}
OK = 200, JSON_TYPE, b"{}"
UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}

# Bytes that wake the main thread. No signal has these numbers.
WAKE, STOP = b"\x00", b"\xff"
STOPS = {signal.SIGTERM, signal.SIGINT, *STOP}
HANG_UP = getattr(select, "POLLRDHUP", 0)
# The codes of errors that a plugin passes on to its caller, by `CallError.kind`.
CALL_CODES = {"invalid-input": 400, "permission-denied": 403, "cancelled": 499, "not-provided": 501,
              "panicked": 502, "invalid-output": 502, "overloaded": 503, "unavailable": 503,
              "deadline-exceeded": 504, "circular": 508}
# Names of hints for the types of contracts that Python lacks, such as `hotbay.U32`.
SCALARS = {**{f"{sign}{bits}": int for sign in "IU" for bits in (8, 16, 32, 64)},
           "F32": float, "F64": float, "Char": str, "Json": object}
# The call that the current thread or task serves.
SERVED = ContextVar("hotbay.SERVED", default=None)
TYPE_CHECKING = False  # Type checkers assume that it is true.
if TYPE_CHECKING:
    from typing import Any as Json
    I8 = I16 = I32 = I64 = U8 = U16 = U32 = U64 = int
    F32 = F64 = float
    Char = str


def __getattr__(name):
    """Returns the hint of this name. `typing` is imported only if a plugin uses one."""
    if name not in SCALARS:
        raise AttributeError(f"module `hotbay` has no attribute `{name}`")
    from typing import Annotated
    return Annotated[SCALARS[name], Scalar(name.lower())]


class Error(Exception):
    """An error of the plugin, which its caller gets with this code, message and details.

    The plugin's author chooses the code, a signed 32-bit number. `details` is any JSON value.
    `retryable` means that the same call may succeed later.
    """

    def __init__(self, code: int, message: str, *, details=None, retryable: bool = False):
        super().__init__(message)
        self.code, self.message, self.details, self.retryable = code, message, details, retryable

    def body(self) -> dict:
        """Returns the error as JSON."""
        body = {"code": self.code, "message": self.message, "retryable": self.retryable}
        return body if self.details is None else {**body, "details": self.details}


class Cancelled(Error):
    """The call is cancelled, or its deadline has passed."""


class CallError(Error):
    """A call of a contract has failed, other than by an error of the method.

    `kind` is one of those in PROTOCOL.md, such as `unavailable`; `hint` is advice, or None. A
    plugin that does not catch the error passes it on to its caller.
    """

    def __init__(self, kind: str, message: str, hint: str = None):
        is_retryable = kind in ("overloaded", "unavailable")
        super().__init__(CALL_CODES.get(kind, 500), message, retryable=is_retryable)
        self.kind, self.hint = kind, hint


class ConfigError(Exception):
    """The plugin's configuration is invalid, so it does not start."""


class Output:
    """Bytes with a content type, as the result of a function."""

    def __init__(self, body: bytes, content_type: str):
        for value, kind, name in ((body, (bytes, bytearray, memoryview), "bytes as the body"),
                                  (content_type, str, "text as the content type")):
            if not isinstance(value, kind):
                raise TypeError(f"expected {name}, found {_shown(value)}")
        self.body, self.content_type = body, content_type


def text(input: bytes) -> str:
    """Returns an input as text; raises an `Error` with code 400 if it is not UTF-8."""
    try:
        return input.decode()
    except UnicodeDecodeError as error:
        message = f"invalid UTF-8 at byte {error.start}"
        raise Error(400, message, details={"byte": error.start}) from None


class Call:
    """A call that is served."""

    def __init__(self, connection, headers: dict):
        #: The headers of the request, by name in lower case.
        self.headers = headers
        #: The content type of the input.
        self.content_type = headers.get("content-type", BYTES_TYPE)
        #: The number of the call, unique in the host's process.
        self.id = _whole_number(headers, "hotbay-call-id") or 0
        #: The W3C trace context of the caller, or None.
        self.traceparent = headers.get("traceparent")
        milliseconds = _whole_number(headers, "hotbay-deadline-ms")
        #: The time of `time.monotonic()` at which the caller stops waiting, or None.
        self.deadline = None if milliseconds is None else time.monotonic() + milliseconds / 1000
        self._connection, self._slot, self._was_cancelled = connection, None, None

    @property
    def remaining(self):
        """The time until the deadline in seconds, at least 0; None without a deadline."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0)

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer waits: it cancelled the call, or the deadline passed."""
        if self._was_cancelled is not None:  # It has ended.
            return self._was_cancelled
        return self.remaining == 0 or self._connection.is_closed()

    def check(self) -> None:
        """Raises an error if the call is cancelled. Use it in long loops."""
        if self.cancelled:
            raise self.cancelled_error()

    def cancelled_error(self) -> Error:
        """Returns the error of a cancelled call, which no caller waits for."""
        if self.remaining == 0:
            return Cancelled(408, "the deadline passed", retryable=True)
        return Cancelled(499, "cancelled")

    def _end(self) -> None:
        self._was_cancelled = self.cancelled


class Host:
    """The program's host: `plugin.host.contract("key-value", "1.0").get(key="a")`."""

    def contract(self, name: str, version: str, *, plugin: str = None, timeout: float = None,
                 methods: list = ()) -> "Contract":
        """Returns an object whose methods call a contract of the host or of another plugin.

        The manifest needs the permission `contract:NAME`. `plugin` names the plugin that is to
        serve it. `timeout` is the time limit of each call in seconds. The first call checks that
        the version is served, and with `methods`, lines of the contract's text, that these are.
        """
        return Contract(name, "\n".join((f"contract {name} {version}", *methods)), plugin, timeout)


class Contract:
    """Calls methods of a contract, with arguments by name: `get(key="a")`.

    A call returns the result, as JSON. It raises the `Error` of the method, or a `CallError`. It
    has the deadline of the call that the plugin serves meanwhile, and ends with it. It waits on
    the current thread, so write `await asyncio.to_thread(contract.get, key="a")` in tasks.
    """

    def __init__(self, name: str, text: str, plugin: str, timeout: float):
        self._name, self._text, self._plugin, self._timeout = name, text, plugin, timeout
        self._is_checked = False

    def __getattr__(self, method: str):
        """Returns the function that calls a method of this name."""
        if method.startswith("_"):
            raise AttributeError(f"contracts have no method `{method}`")
        return lambda **arguments: self._call(_wire(method), arguments)

    def _call(self, method: str, arguments: dict):
        if _is_in_task():
            raise RuntimeError("a call of a contract would block all tasks: write "
                               f"`await asyncio.to_thread(contract.{method}, …)`")
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        if not self._is_checked:
            check = {"text": self._text}
            if self._plugin:
                check["plugin"] = self._plugin
            self._send("/contract", check, deadline)
            self._is_checked = True
        arguments = {_wire(name): value for name, value in arguments.items()}
        return self._send(f"/contract/{self._name}/{method}", arguments, deadline)

    def _send(self, path: str, body: dict, deadline: float):
        """Sends a request to the host; returns the result of the response, or raises its error."""
        served = SERVED.get()
        if served and served._was_cancelled is False:
            served = None  # This thread or task has outlived the call.
        headers = [("Content-Type", JSON_TYPE), ("Connection", "close"), ("Host", "host")]
        if token := os.environ.get("HOTBAY_TOKEN"):
            headers.append(("Hotbay-Token", token))
        if self._plugin:
            headers.append(("Hotbay-Plugin", self._plugin))
        if served:
            headers.append(("Hotbay-Call-Id", served.id))
            if served.traceparent:
                headers.append(("traceparent", served.traceparent))
            if served.deadline is not None:
                deadline = min(served.deadline, deadline or served.deadline)
        if deadline is not None and deadline < math.inf:
            remaining = max(deadline - time.monotonic(), 0)
            headers.append(("Hotbay-Deadline-Ms", math.ceil(remaining * 1000)))
        try:
            body = json.dumps(body, allow_nan=False, default=_argument).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise CallError("invalid-input", f"an argument is not JSON: {error}") from None
        headers.append(("Content-Length", len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        names = path.split("/")[1:]
        for name in (*names, self._plugin or "-"):
            if len(names) > 3 or not _is_name(name):
                raise CallError("invalid-input", f"invalid name: `{name}`")

        def check():
            if served:
                served.check()
            if deadline is not None and time.monotonic() >= deadline:
                raise CallError("deadline-exceeded", "the deadline passed")
        response = _exchange(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body, check, deadline)
        return _result(*response)


class Log:
    """Writes lines to the host's log: `plugin.log.info("loaded", rows=3)`.

    The levels are `trace`, `debug`, `info`, `warn` and `error`.
    """

    def __init__(self, target: str):
        self.target, self._lock = target, threading.Lock()

    def write(self, level: str, message: str, fields: dict) -> None:
        """Writes one line. Fields that are not JSON are written as text."""
        line = {**fields, "level": level, "msg": message, "target": self.target}
        line = {name: _loggable(value) for name, value in line.items()}
        line = json.dumps(line, default=str, allow_nan=False).encode() + b"\n"
        with self._lock:  # Lines of threads do not mix.
            while line:
                line = line[os.write(2, line):]

    def __getattr__(self, level: str):
        """Returns the function that logs with a level: `trace` to `error`."""
        if level not in ("trace", "debug", "info", "warn", "error"):
            raise AttributeError(f"no level `{level}`")
        return lambda message, /, **fields: self.write(level, message, fields)


class Plugin:
    """A plugin: declare its functions with the decorators, then call `run`."""

    def __init__(self, name: str, version: str, *, config_schema: dict = None,
                 input_schema: dict = None, max_concurrent_calls: int = 64,
                 max_body_bytes: int = 64 << 20):
        self.name, self.version = name, version
        #: The plugin's configuration, a JSON object; set before `configure` runs.
        self.config: dict = {}
        self.log = Log(name)
        #: The host, whose contracts can be called.
        self.host = Host()
        self.max_concurrent_calls, self.max_body_bytes = max_concurrent_calls, max_body_bytes
        self._schemas = {"configSchema": config_schema, "inputSchema": input_schema}
        self._endpoints, self._hooks, self._contracts = {}, {}, {}

    def execute(self, function):
        """Declares the function `(input: bytes, call)` that serves calls; also in batches.

        It returns bytes, text, an `Output`, None, or any value that becomes JSON.
        """
        return self.endpoint("execute")(function)

    def endpoint(self, name: str):
        """Declares a function like `execute`, with its own name."""
        if name in ("batch", "healthz", "restore", "shutdown", "snapshot") or name.startswith("/"):
            raise ValueError(f"invalid name of an endpoint: `{name}`")
        return lambda function: _declare(self._endpoints, name, function)

    def configure(self, function):
        """Declares the function `(config: dict)` of the start, which may raise `ConfigError`."""
        return _declare(self._hooks, "configure", function)

    def health(self, function):
        """Declares the function without arguments that raises an `Error` if calls cannot work."""
        return _declare(self._hooks, "health", function)

    def snapshot(self, function):
        """Declares the function that returns `(version, bytes)` of the state, or None."""
        return _declare(self._hooks, "snapshot", function)

    def restore(self, function):
        """Declares the function `(version: int, state: bytes)` that restores the state."""
        return _declare(self._hooks, "restore", function)

    def shutdown(self, function):
        """Declares the function without arguments that runs after the last call."""
        return _declare(self._hooks, "shutdown", function)

    def contract(self, name: str, version: str):
        """Declares a class whose public methods serve a contract.

        The text of the contract is made of the names and hints of the methods. The class is
        instantiated without arguments, after `configure`. An argument with the hint `hotbay.Call`
        gets the call. See README.md for the types.
        """
        def declare(served):
            if name in self._contracts:
                raise TypeError(f"contract `{name}` is already declared")
            functions = {}
            for base in reversed(served.__mro__[:-1]):
                functions.update(vars(base))
            methods = {}
            for own, function in functions.items():
                if own.startswith("_"):
                    continue
                if isinstance(function, (staticmethod, classmethod)):
                    raise TypeError(f"method `{served.__name__}.{own}`: expected a function with "
                                    f"`self`, found a {type(function).__name__}")
                if callable(function):
                    methods[own] = Method(f"{served.__name__}.{own}", _wire(own), function)
            lines = [f"contract {name} {version}", *(found.text for found in methods.values())]
            self._contracts[name] = served, methods, "\n".join(lines) + "\n"
            return served
        return declare

    def capabilities(self) -> dict:
        """Returns what the command `capabilities` prints."""
        endpoints = [*self._endpoints, *(["batch"] if "execute" in self._endpoints else []),
                     *(hook for hook in ("snapshot", "restore") if hook in self._hooks)]
        own = {"protocol": 1, "name": self.name, "version": self.version, "endpoints": endpoints,
               "config": ["env", "file"],
               **{name: schema for name, schema in self._schemas.items() if schema is not None}}
        if self._contracts:
            own["contracts"] = [{"text": text} for _, _, text in self._contracts.values()]
        return {"hotbay": own}

    def run(self, arguments: list = None) -> None:
        """Executes the command line; returns after the shutdown. Exits with 2 if it is invalid."""
        arguments = sys.argv[1:] if arguments is None else arguments
        if arguments == ["capabilities"]:
            print(json.dumps(self.capabilities()))
            return
        try:
            config = json.loads(_start_config(arguments))
            idle_timeout = config.get("idleTimeout")
            idle_timeout = seconds(DEFAULT_IDLE_TIMEOUT if idle_timeout is None else idle_timeout)
            entries = config.get("configTypes") or []
            data = [entry.get("data") for entry in entries if entry["type"] == "hotbay/v1"]
            self.config = json.loads(a2b_base64(data[0])) if data and data[0] else {}
            if not isinstance(self.config, dict):
                raise ValueError("expected an object as the data of `hotbay/v1`")
            if config.get("type", "unix") not in ("unix", "tcp"):
                raise ValueError(f"found type `{config['type']}`, expected `unix` or `tcp`")
            if "/" in (config.get("id") or ""):
                raise ValueError("expected no `/` in `id`, since a file is named after it")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            sys.stderr.write(f"invalid start configuration: {error}\n\nusage: {self.name} "
                             "capabilities | --config JSON (or in HOTBAY_CONFIG)\n")
            sys.exit(2)
        sys.stdout.reconfigure(line_buffering=True)
        Server(self).run(config.get("id") or self.name, config.get("type"), idle_timeout)


def method(*, since: str = None, permission: str = None, is_async: bool = None):
    """Declares properties of a contract's method.

    `since` is the version that added it, and `permission` the operation that a host requires the
    plugin's permission for. With `is_async`, the contract says `async fn`; otherwise, `async def`
    decides.
    """
    properties = {"since": since, "permission": permission, "is_async": is_async}

    def declare(function):
        function.__hotbay__ = properties
        return function
    return declare


class Mismatch(Exception):
    """A value is not of its type."""


class Scalar:
    """The metadata of a hint that names a type of contracts."""

    def __init__(self, name: str):
        self.name = name


class Type:
    """A type of contracts: its text, and functions that convert its values from and to JSON."""

    def __init__(self, text: str, decode, encode=None, is_hashable: bool = True):
        self.text, self.decode, self.encode = text, decode, encode or decode
        #: Whether values can be items of a set.
        self.is_hashable = is_hashable
        self.is_optional = text.endswith("?")

    @classmethod
    def of(cls, hint, depth: int = 0) -> "Type":
        """Returns the type of a hint; raises TypeError if contracts have none."""
        from typing import Any, Union, get_args, get_origin
        if depth > MAX_DEPTH:
            raise TypeError(f"a type nests more than {MAX_DEPTH} levels")
        if hasattr(hint, "__metadata__"):
            named = [found.name for found in hint.__metadata__ if isinstance(found, Scalar)]
            return cls.scalar(named[0]) if named else cls.of(hint.__origin__, depth)
        names = {int: "i64", float: "f64", bool: "bool", str: "string", Any: "json",
                 object: "json", dict: "json", type(None): "unit", None: "unit"}
        if hint in names:
            return cls.scalar(names[hint])
        if hint is bytes:
            numbers = cls.list_of(list, cls.scalar("u8"))
            return cls("[u8]", lambda value: bytes(numbers.decode(value)),
                       lambda value: list(_expect(value, (bytes, bytearray), "bytes")))
        origin = get_origin(hint)
        if origin is Union or getattr(origin, "__name__", None) == "UnionType":
            inner = [part for part in get_args(hint) if part is not type(None)]
            if len(inner) == 1 and len(get_args(hint)) == 2:
                return cls.optional_of(cls.of(inner[0], depth + 1))
        parts = [part if part is ... else cls.of(part, depth + 1) for part in get_args(hint)]
        if origin in (list, set, frozenset) or origin is tuple and parts[1:] == [...]:
            return cls.list_of(origin, parts[0])
        if origin is tuple and parts:
            return cls.tuple_of(parts)
        if origin is dict and parts:
            return cls.map_of(*parts)
        if hasattr(hint, "__dataclass_fields__"):
            return cls.record_of(hint, depth)
        if isinstance(hint, type) and hasattr(hint, "__members__"):
            return cls.enum_of(hint)
        raise TypeError(f"contracts have no type for the hint `{hint}`")

    @classmethod
    def scalar(cls, name: str) -> "Type":
        if name[1:] in ("8", "16", "32", "64") and name[0] in "iu":
            low = -(1 << int(name[1:]) - 1) if name[0] == "i" else 0
            high = low + (1 << int(name[1:])) - 1

            def convert(value):
                if isinstance(value, bool) or not low <= _expect(value, int, name) <= high:
                    raise Mismatch(f"expected {name}, found {_shown(value)}")
                return int(value)
        elif name in ("f32", "f64"):
            def convert(value):
                if isinstance(value, bool):
                    raise Mismatch(f"expected {name}, found {_shown(value)}")
                try:
                    return float(_expect(value, (int, float), name))
                except OverflowError:
                    raise Mismatch(f"number too large for {name}") from None
        elif name == "char":
            def convert(value):
                if len(_expect(value, str, name)) != 1:
                    raise Mismatch(f"expected one character, found {_shown(value)}")
                return value
        elif name == "json":
            def convert(value):
                return value
        else:
            kind = {"bool": bool, "string": str, "unit": type(None)}[name]

            def convert(value):
                return _expect(value, kind, name)
        return cls(name, convert)

    @classmethod
    def list_of(cls, kind: type, item: "Type") -> "Type":
        is_set = kind in (set, frozenset)
        text = f"set<{item.text}>" if is_set else f"[{item.text}]"
        accepted = (set, frozenset) if is_set else (list, tuple)
        if is_set and not item.is_hashable:
            raise TypeError(f"items of sets must be hashable, found `{item.text}`; "
                            "dataclasses are if they are frozen")

        def decode(value):
            items = _each(item.decode, _expect(value, list, text))
            try:
                return kind(items)
            except TypeError as error:  # A field or JSON has a list.
                raise Mismatch(f"invalid {text}: {error}") from None
        is_hashable = kind in (tuple, frozenset) and item.is_hashable
        return cls(text, decode, lambda value: _each(item.encode, _expect(value, accepted, text)),
                   is_hashable)

    @classmethod
    def optional_of(cls, inner: "Type") -> "Type":
        return cls(f"{inner.text}?", lambda value: None if value is None else inner.decode(value),
                   lambda value: None if value is None else inner.encode(value),
                   inner.is_hashable)

    @classmethod
    def tuple_of(cls, parts: list) -> "Type":
        text = f"({', '.join(part.text for part in parts)})"

        def convert(value, functions):
            if len(_expect(value, (list, tuple), text)) != len(parts):
                raise Mismatch(f"expected {len(parts)} values, found {len(value)}")
            return [function(value) for function, value in zip(functions, value)]
        return cls(text, lambda value: tuple(convert(value, [part.decode for part in parts])),
                   lambda value: convert(value, [part.encode for part in parts]),
                   all(part.is_hashable for part in parts))

    @classmethod
    def map_of(cls, key: "Type", value: "Type") -> "Type":
        text = f"map<{key.text}, {value.text}>"
        is_number = key.text[0] in "iu" and key.text[1:].isdecimal()
        if not is_number and key.text != "string":
            raise TypeError(f"keys of maps are text or integers, found `{key.text}`")

        def decode_key(found):
            if not is_number:
                return found
            try:
                return key.decode(int(found))
            except ValueError:
                raise Mismatch(f"expected a number as the key, found {_shown(found)}") from None
        return cls(text, lambda found: {decode_key(own): _at(own, value.decode, item)
                                        for own, item in _expect(found, dict, text).items()},
                   lambda found: {str(key.encode(own)): _at(own, value.encode, item)
                                  for own, item in _expect(found, dict, text).items()},
                   is_hashable=False)

    @classmethod
    def record_of(cls, kind: type, depth: int) -> "Type":
        from dataclasses import MISSING, fields as fields_of
        from typing import get_type_hints
        hints = get_type_hints(kind, include_extras=True)
        fields = []
        for field in fields_of(kind):
            has_default = field.default is not MISSING or field.default_factory is not MISSING
            fields.append((field.name, cls.of(hints[field.name], depth + 1), has_default))
        texts = [f"{_wire(name)}: {found.text}"
                 + (" = default" if has_default and not found.is_optional else "")
                 for name, found, has_default in fields]

        def decode(value):
            values = {}
            _expect(value, dict, kind.__name__)
            for name, found, has_default in fields:
                if _wire(name) in value:
                    values[name] = _at(name, found.decode, value[_wire(name)])
                elif found.is_optional and not has_default:
                    values[name] = None
                elif not has_default:
                    raise Mismatch(f"missing field `{name}` of {kind.__name__}")
            try:
                return kind(**values)
            except (TypeError, ValueError) as error:  # Of `__post_init__`.
                raise Mismatch(f"invalid {kind.__name__}: {error}") from None

        def encode(value):
            _expect(value, kind, kind.__name__)
            return {_wire(name): _at(name, found.encode, getattr(value, name))
                    for name, found, _ in fields}
        return cls(f"{kind.__name__} {{ {', '.join(texts)} }}", decode, encode,
                   kind.__hash__ is not None)

    @classmethod
    def enum_of(cls, kind: type) -> "Type":
        """The names of variants are the members' values if they are text, or else their names."""
        names = {member: member.value if isinstance(member.value, str) else member.name
                 for member in kind}
        members = {name: member for member, name in names.items()}

        def decode(value):
            if not isinstance(value, str) or value not in members:
                raise Mismatch(f"expected one of {', '.join(members)}, found {_shown(value)}")
            return members[value]
        return cls(f"enum {kind.__name__} {{ {', '.join(members)} }}", decode,
                   lambda value: names[_expect(value, kind, kind.__name__)])


class Method:
    """A method of a contract: its line of the text, and how it is called."""

    def __init__(self, path: str, name: str, function):
        from collections import abc
        from typing import get_args, get_origin, get_type_hints
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code, hints = function.__code__, get_type_hints(function, include_extras=True)
        parameters = code.co_varnames[1:code.co_argcount + code.co_kwonlyargcount]
        missing = [part for part in (*parameters, "return") if part not in hints]
        if missing:
            raise TypeError(f"method `{path}`: `{missing[0]}` has no type hint")
        self.call_parameter, self.arguments = None, {}
        positional = parameters[:code.co_argcount - 1]
        defaults = {*positional[len(positional) - len(function.__defaults__ or ()):],
                    *(function.__kwdefaults__ or ())}
        properties = getattr(function, "__hotbay__", {})
        is_async = properties.get("is_async")
        result, kind = hints["return"], "fn"
        if get_origin(result) in (abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator,
                                  abc.AsyncIterable, abc.AsyncGenerator):
            result, kind = get_args(result)[0], "stream fn"
        elif code.co_flags & 0x80 if is_async is None else is_async:  # `inspect.CO_COROUTINE`
            kind = "async fn"
        try:
            for parameter in parameters:
                if hints[parameter] is Call:
                    self.call_parameter = parameter
                    continue
                found = self.arguments[parameter] = Type.of(hints[parameter])
                if parameter in defaults and not found.is_optional:
                    raise TypeError(f"`{parameter}` has a default: its hint must be Optional")
            self.output = Type.of(result)
        except TypeError as error:
            raise TypeError(f"method `{path}`: {error}") from None
        #: Arguments that are None if a request lacks them.
        self.absent = [parameter for parameter, found in self.arguments.items()
                       if found.is_optional and parameter not in defaults]
        arguments = ", ".join(f"{_wire(own)}: {found.text}"
                              for own, found in self.arguments.items())
        words = [f"#since {properties['since']}" if properties.get("since") else "",
                 f"#permission {properties['permission']}" if properties.get("permission") else "",
                 f"{kind} {name}({arguments}) -> {self.output.text}"]
        self.text, self.is_stream = " ".join(filter(None, words)), kind == "stream fn"

    def decode(self, body: bytes, call: Call) -> dict:
        """Returns the arguments of a request. Unknown ones are ignored."""
        try:
            given = _expect(json.loads(body), dict, "an object with the arguments")
        except (ValueError, RecursionError) as error:
            raise Mismatch(f"invalid JSON: {error}") from None
        values = dict.fromkeys(self.absent)
        for name, found in self.arguments.items():
            if _wire(name) in given:
                values[name] = _at(name, found.decode, given[_wire(name)])
            elif not found.is_optional:
                raise Mismatch(f"missing argument `{name}`")
        if self.call_parameter:
            values[self.call_parameter] = call
        return values


def _declare(functions: dict, name: str, function):
    if functions.setdefault(name, function) is not function:
        raise TypeError(f"`{name}` is already declared")
    return function


class Rejected(Exception):
    """A request that does not reach the plugin's code."""

    def __init__(self, status: int, message: str, is_last: bool = False):
        super().__init__(message)
        self.status, self.is_last = status, is_last
        self.body = {"message": message, "statusCode": status}


class Server:
    """Serves a plugin until a signal, `/shutdown`, or the idle timeout."""

    def __init__(self, plugin: Plugin):
        self.plugin, self.loop = plugin, Loop()
        token = os.environ.get("HOTBAY_TOKEN")
        self.token = token and token.encode()
        self.lock = threading.Lock()
        # The fields below are used only with the lock.
        self.connections, self.running, self.idle_since = {}, 0, time.monotonic()
        self.is_used = self.is_draining = False
        self.slots = threading.Semaphore(plugin.max_concurrent_calls)
        self.methods = {}

    def hook(self, name: str, *arguments):
        """Runs a hook of the plugin, if it has it; also if it is async."""
        function = self.plugin._hooks.get(name)
        result = function(*arguments) if function else None
        return self.loop.submit(result).result() if hasattr(result, "__await__") else result

    def run(self, plugin_id: str, kind: str, idle_timeout: float) -> None:
        """Starts the plugin, serves it, and shuts it down."""
        self.wakeups, self.waker = socket.socketpair()
        # A handler in Python does not run while `select` waits, if the signal arrived just before
        # it or on another thread. The descriptor is written at once.
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:  # Ends a start that hangs.
            signal.signal(number, lambda *_: sys.exit(1))
        listener, location, files = _listen(plugin_id, kind)
        try:
            self.start()
            for number in signals:
                signal.signal(number, lambda *_: None)
            print(location, flush=True)
            self.serve(listener, idle_timeout)
        finally:
            for file in files:
                os.remove(file)
        if not self.drain(listener):
            self.plugin.log.warn("`shutdown` skipped: calls were still running",
                                 waited_seconds=DRAIN_TIMEOUT_SECONDS)
            os._exit(0)  # Threads of calls would block or crash the interpreter's exit.
        try:
            self.hook("shutdown")
        except BaseException as error:
            self.plugin.log.error("`shutdown` failed", **_fault(error))
            sys.exit(1)

    def start(self) -> None:
        try:
            self.hook("configure", self.plugin.config)
            for name, (served, methods, _) in self.plugin._contracts.items():
                instance = served()
                for own, found in methods.items():
                    path = f"/contract/{name}/{_wire(own)}"
                    self.methods[path] = getattr(instance, own), found
        except (ConfigError, Error) as error:
            self.plugin.log.error(f"invalid configuration: {error}")
            sys.exit(1)
        except Exception as error:
            self.plugin.log.error("the start failed", **_fault(error))
            sys.exit(1)

    def serve(self, listener: socket.socket, idle_timeout: float) -> None:
        while True:
            with self.lock:
                idle = 0 if self.running else time.monotonic() - self.idle_since
                is_below_limit = len(self.connections) < MAX_CONNECTIONS
            if 0 < idle_timeout <= idle:
                return
            wait = min(idle_timeout - idle, MAX_WAIT_SECONDS) if idle_timeout else None
            is_able = is_below_limit and self.accept(listener)
            if is_below_limit and not is_able:  # The system lacks descriptors or threads.
                wait = min(wait or ACCEPT_RETRY_SECONDS, ACCEPT_RETRY_SECONDS)
            readable = [self.wakeups, listener] if is_able else [self.wakeups]
            if self.wakeups in select.select(readable, [], [], wait)[0]:
                # Signals write their numbers, also those that the plugin handles.
                if not STOPS.isdisjoint(self.wakeups.recv(4096)):
                    return

    def wake(self, stop: bool = False) -> None:
        try:
            self.waker.send(STOP if stop else WAKE)
        except OSError:
            pass  # The buffer is full, so that the main thread wakes anyway.

    def accept(self, listener: socket.socket, limit: int = MAX_CONNECTIONS) -> bool:
        """Accepts pending connections up to a limit of all; returns False if the system lacks
        resources."""
        while True:
            with self.lock:
                if len(self.connections) >= limit:
                    return True
            try:
                connection = Connection(self, listener.accept()[0])
                thread = threading.Thread(target=connection.serve, daemon=True)
                with self.lock:
                    self.connections[connection] = thread
                thread.start()
            except BlockingIOError:
                return True
            except ConnectionError:
                continue
            except RuntimeError:  # No thread.
                connection.socket.close()
                connection.end()
                return False
            except OSError:
                return False

    def drain(self, listener: socket.socket) -> bool:
        """Waits for running calls; returns False if some still run.

        No accepted request is lost: the socket is removed first, pending connections are accepted,
        and requests that have arrived can still be read after SHUT_RD.
        """
        self.accept(listener, MAX_CONNECTIONS + MAX_PENDING)
        listener.close()
        with self.lock:
            self.is_draining = True
            connections = list(self.connections.items())
            for connection, _ in connections:
                if not connection.is_busy:
                    connection.stop_reading()
        deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
        for _, thread in connections:
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for _, thread in connections)

    def respond(self, connection: "Connection", method: str, path: str, headers: dict,
                body: bytes):
        """Returns status, content type, body and more headers, or a stream."""
        if path == "/shutdown":
            self.wake(stop=True)
            return OK
        name, served = path[1:], self.methods.get(path)
        hooks = {"/healthz": "GET", "/snapshot": "GET", "/restore": "POST"}
        if path in hooks and (path == "/healthz" or name in self.plugin._hooks):
            expected = hooks[path]
        elif served or name in self.plugin._endpoints or (
                name == "batch" and "execute" in self.plugin._endpoints):
            expected = "POST"
        else:
            raise Rejected(404, f"endpoint `{path}` not found")
        if method != expected:
            raise Rejected(405, f"wrong method for `{path}`: expected {expected}, found {method}")
        if path == "/healthz":
            try:
                self.hook("health")
            except BaseException as error:
                return 503, JSON_TYPE, _json(_failure(error)[1])
            return OK
        if path == "/snapshot":
            state = self.hook("snapshot")
            if state is None:
                return 200, BYTES_TYPE, b""
            return 200, BYTES_TYPE, bytes(state[1]), f"Hotbay-Snapshot-Version: {state[0]:d}\r\n"
        with self.lock:
            was_used, self.is_used = self.is_used, True
        if path == "/restore":
            version = _whole_number(headers, "hotbay-snapshot-version")
            if version is None:
                raise Rejected(400, "missing header Hotbay-Snapshot-Version")
            if was_used:
                raise Rejected(409, "a state can be restored only before the first call")
            self.hook("restore", version, body)
            return OK
        call = Call(connection, headers)
        SERVED.set(call)
        if not self.slots.acquire(blocking=False):
            self.wait_for_slot(call)
        call._slot = slot = Slot(self.slots)
        try:
            if served:
                return self.call_method(connection, call, *served, body)
            if name == "batch":
                return self.batch(connection, call, body)
            return 200, *self.call(connection, call, self.plugin._endpoints[name], body)
        finally:
            call._slot = None
            slot.leave()

    def wait_for_slot(self, call: Call) -> None:
        """Waits for the end of another call; raises an error if the call is cancelled."""
        while not self.slots.acquire(timeout=SLOT_POLL_SECONDS):
            call.check()
        if call.cancelled:
            self.slots.release()
            raise call.cancelled_error()

    def call(self, connection: "Connection", call: Call, function, body: bytes):
        """Calls a function of the plugin; returns content type and body of its output."""
        output = connection.result(function(body, call), call)
        if isinstance(output, Output):
            return output.content_type, bytes(output.body)
        if isinstance(output, (bytes, bytearray, memoryview)):
            return BYTES_TYPE, bytes(output)
        if isinstance(output, str):
            return TEXT_TYPE, output.encode()
        return (BYTES_TYPE, b"") if output is None else (JSON_TYPE, _json(output))

    def batch(self, connection: "Connection", call: Call, body: bytes):
        try:
            inputs = [(a2b_base64(entry["body"], **STRICT), entry.get("contentType", BYTES_TYPE))
                      for entry in json.loads(body)["requests"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Rejected(400, f"invalid batch: {error!r}") from None
        if len(inputs) > MAX_BATCH:
            raise Rejected(400, f"too many requests: expected at most {MAX_BATCH}")
        replies = []
        for given, content_type in inputs:
            call.content_type = content_type
            try:
                call.check()
                content_type, output = self.call(connection, call,
                                                 self.plugin._endpoints["execute"], given)
                encoded = b2a_base64(output, newline=False).decode()
                replies.append({"contentType": content_type, "body": encoded})
            except BaseException as error:
                replies.append({"error": _failure(error)[1]})
        return 200, JSON_TYPE, _json({"replies": replies})

    def call_method(self, connection: "Connection", call: Call, function, served: Method,
                    body: bytes):
        try:
            arguments = served.decode(body, call)
        except Mismatch as error:
            raise Rejected(400, f"invalid arguments: {error}") from None
        result = function(**arguments)
        if not served.is_stream:
            result = connection.result(result, call)
            try:
                return 200, JSON_TYPE, _json(served.output.encode(result))
            except (Mismatch, TypeError, ValueError) as error:
                raise Rejected(500, f"the result cannot be serialized: {error}") from None
        return Stream(connection.items(result, call), served.output.encode)


class Slot:
    """A place among the calls that run. It is in use until its call and the tasks of it end."""

    def __init__(self, slots: threading.Semaphore):
        self.slots, self.lock, self.users = slots, threading.Lock(), 1

    def enter(self) -> None:
        with self.lock:
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            is_last = self.users == 0
        if is_last:
            self.slots.release()


class Stream:
    """The response of a method that returns a stream. Is sent outside of the limit of calls."""

    def __init__(self, items, encode):
        self.items, self.encode = items, encode


class Loop:
    """One asyncio loop on a thread, started by the first awaitable."""

    def __init__(self):
        self.lock, self.loop = threading.Lock(), None

    def submit(self, awaitable, on_end=None):
        """Runs an awaitable as a task; returns a `concurrent.futures.Future`. `on_end` is called
        when the task has ended, which may be long after the future was cancelled."""
        import asyncio
        from concurrent.futures import Future
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                threading.Thread(target=self.loop.run_forever, daemon=True).start()

        async def run():
            return await awaitable

        def start():
            task = self.loop.create_task(run())
            task.add_done_callback(finish)
            future.add_done_callback(lambda _: self.loop.call_soon_threadsafe(task.cancel)
                                     if future.cancelled() else None)

        def finish(task):
            if on_end:
                on_end()
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if not future.set_running_or_notify_cancel():
                return
            if error:
                future.set_exception(error)
            else:
                future.set_result(task.result())
        future = Future()
        self.loop.call_soon_threadsafe(start)
        return future


class Connection:
    """A connection of the host, and the thread that serves it."""

    def __init__(self, server: Server, stream: socket.socket):
        stream.settimeout(TOKEN_TIMEOUT_SECONDS if server.token else None)
        self.server, self.socket = server, stream
        self.is_trusted = self.is_busy = self.has_stopped_reading = False
        self.wakeups = None

    def stop_reading(self) -> None:
        """Stops receiving. What has arrived can still be read."""
        self.has_stopped_reading = True
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # It may be closed already.

    def is_closed(self) -> bool:
        """Returns whether the host has closed the connection; on any thread."""
        return self.socket.fileno() < 0 or bool(self.new_poll().poll(0))

    def new_poll(self):
        """Returns an object that waits until the host closes the connection."""
        poll = select.poll()
        # After `stop_reading`, only the end of both directions shows it.
        poll.register(self.socket, 0 if self.has_stopped_reading else HANG_UP)
        return poll

    def serve(self) -> None:
        try:
            with self.socket, self.socket.makefile("rb") as stream:
                is_open = True
                while is_open:
                    try:
                        head = _read_head(stream)
                        if head is None:
                            return
                        self.check_token(head[2])
                        body = _read_body(stream, head[2], self.server.plugin.max_body_bytes)
                    except Rejected as error:
                        self.send(error.status, JSON_TYPE, _json(error.body), "", True)
                        return
                    if body is None:
                        return
                    is_open = self.handle(*head, body)
        except OSError:
            pass  # The host closed the connection.
        finally:
            self.end()

    def end(self) -> None:
        """Forgets the connection."""
        for descriptor in self.wakeups or ():
            os.close(descriptor)
        with self.server.lock:
            del self.server.connections[self]
            was_full = len(self.server.connections) == MAX_CONNECTIONS - 1
        if was_full:
            self.server.wake()

    def check_token(self, headers: dict) -> None:
        """Rejects a request without the token. It protects all paths, including unknown ones."""
        token = self.server.token
        if token and not _equal(headers.get("hotbay-token", "").encode(), token):
            message = "invalid or missing header Hotbay-Token: expected the value of HOTBAY_TOKEN"
            raise Rejected(401, message)
        if not self.is_trusted:
            self.is_trusted = True
            self.socket.settimeout(None)

    def handle(self, method: str, path: str, headers: dict, body: bytes) -> bool:
        """Responds to a request; returns whether the connection stays open."""
        server = self.server
        counts = path != "/healthz"
        with server.lock:
            self.is_busy = True
            server.running += counts
        SERVED.set(None)
        try:
            try:
                response = server.respond(self, method, path, headers, body)
            except BaseException as error:  # It fails this call only.
                status, failure = self.failure(error)
                response = status, JSON_TYPE, _json(failure)
            if isinstance(response, Stream):
                self.send_stream(response)
                return False
        finally:
            if call := SERVED.get():
                call._end()
            with server.lock:
                self.is_busy = False
                is_last = server.is_draining
                server.running -= counts
                if counts:
                    server.idle_since = time.monotonic()
        is_last = is_last or path == "/shutdown" or headers.get("connection", "").lower() == "close"
        self.send(*response, *([""] * (4 - len(response))), is_last)
        return not is_last

    def failure(self, error: BaseException):
        """Returns status and body for a failure. The host notices a deadline on its own, maybe
        slightly later than the plugin, so the response to a cancelled call waits for that."""
        if isinstance(error, Cancelled):
            self.new_poll().poll(CANCELLED_GRACE_MS)
        return _failure(error)

    def send(self, status: int, content_type: str, body: bytes, more: str, is_last: bool) -> None:
        if not (content_type.isascii() and content_type.isprintable()):
            content_type = BYTES_TYPE
        more += "Connection: close\r\n" if is_last else ""
        head = (f"HTTP/1.1 {status} -\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n{more}\r\n")
        self.socket.sendall(head.encode() + body)

    def result(self, value, call: Call):
        """Returns a value, or the result of an awaitable, which is cancelled with the call."""
        if not hasattr(value, "__await__"):
            return value
        if self.wakeups is None:
            self.wakeups = os.pipe()
        reader, writer = self.wakeups
        poll = self.new_poll()
        poll.register(reader, select.POLLIN)
        slot = call._slot  # None for the items of a stream.
        if slot:
            slot.enter()
        future = self.server.loop.submit(value, slot and slot.leave)
        future.add_done_callback(lambda _: os.write(writer, b"x"))  # Also if it is cancelled.
        is_cancelled = False
        while reader not in (ready := [found for found, _ in poll.poll(_milliseconds(call))]):
            if ready or call.remaining == 0:
                is_cancelled = future.cancel()
                break
        os.read(reader, 1)
        if is_cancelled:
            raise call.cancelled_error()
        return future.result()

    def items(self, stream, call: Call):
        """Returns a generator of the items of a stream, which may be async."""
        if not hasattr(stream, "__aiter__"):
            return iter(self.result(stream, call))

        def read():
            items = stream.__aiter__()
            try:
                while True:
                    try:
                        yield self.result(items.__anext__(), call)
                    except StopAsyncIteration:
                        return
            finally:
                if hasattr(items, "aclose"):
                    self.server.loop.submit(items.aclose())
        return read()

    def send_stream(self, stream: Stream) -> None:
        """Writes a line for each item; blocks while the host does not read."""
        def write(line: dict) -> None:
            line = _json(line) + b"\n"
            self.socket.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        try:
            self.socket.sendall(f"HTTP/1.1 200 -\r\nContent-Type: {LINES_TYPE}\r\nTransfer-Encoding"
                                ": chunked\r\nConnection: close\r\n\r\n".encode())
            last = None
            while last is None:
                try:
                    item = next(stream.items)
                except StopIteration:
                    last = {"end": True}
                except BaseException as error:
                    last = {"error": self.failure(error)[1]}
                else:
                    try:
                        line = {"item": stream.encode(item)}
                        _json(line)
                    except (Mismatch, TypeError, ValueError) as error:
                        message = f"an item cannot be serialized: {error}"
                        last = {"error": Rejected(500, message).body}
                    else:
                        write(line)
            write(last)
            self.socket.sendall(b"0\r\n\r\n")
        finally:
            if hasattr(stream.items, "close"):
                try:
                    stream.items.close()
                except BaseException as error:
                    self.server.plugin.log.error("the end of a stream failed", **_fault(error))


def _is_name(text: str) -> bool:
    """Returns whether a text can be the name of a contract, a method or a plugin."""
    return text != "" and text.isascii() and all(one.isalnum() or one in "-_" for one in text)


def _exchange(request: bytes, check, deadline) -> tuple:
    """Sends a request to the host on a new connection; returns status and body of the response.
    Calls `check` repeatedly, whose error ends the exchange, and closes the connection."""
    seconds = HOST_CONNECT_SECONDS
    if deadline is not None:
        check()
        seconds = min(seconds, max(deadline - time.monotonic(), 0.001))
    with _connect(seconds) as connection:
        connection.setblocking(False)
        rest, parts, size, poll = memoryview(request), [], 0, select.poll()
        while True:
            check()
            poll.register(connection, select.POLLIN | (select.POLLOUT if rest else 0))
            if not poll.poll(CANCEL_POLL_SECONDS * 1000):
                continue
            if rest:
                try:
                    rest = rest[connection.send(rest):]
                except BlockingIOError:
                    pass
                except OSError:
                    rest = rest[:0]  # It may have responded before it closed the connection.
            try:
                part = connection.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size > MAX_RESPONSE_BYTES:
                message = f"the response of the host exceeds {MAX_RESPONSE_BYTES} bytes"
                raise CallError("invalid-output", message)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in
               (line.partition(":") for line in lines)}
    status = first.split(" ")[1:2]
    if not status or not status[0].isdecimal() or headers.get("content-length") != str(len(body)):
        error = CallError("unavailable", "the host did not respond")
        error.retryable = False  # The call may have run.
        raise error
    return int(status[0]), body


def _connect(seconds: float) -> socket.socket:
    """Connects to the services of the host."""
    address = os.environ.get("HOTBAY_HOST")
    if not address:
        raise CallError("unavailable", "the program has no host: HOTBAY_HOST is not set")
    scheme, _, place = address.partition("://")
    try:
        if scheme == "http":
            name, _, port = place.rstrip("/").rpartition(":")
            return socket.create_connection((name, int(port)), seconds)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    except (OSError, ValueError) as error:
        raise CallError("unavailable", f"the host did not respond: {error}") from None


def _result(status: int, body: bytes):
    """Returns the result in a response of the host, or raises its error."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError("invalid-output", f"the host returned invalid JSON: {error}") from None
    if status == 200:
        return found
    found = found if isinstance(found, dict) else {}
    message = found.get("message", "")
    if status == 422:
        raise Error(found.get("code", 500), message, details=found.get("details"),
                    retryable=found.get("retryable", False))
    # A host that is too old for contracts states no kind.
    kind = found.get("kind") or ("unavailable" if status in (404, 410) else "other")
    raise CallError(kind, message, found.get("hint"))


def _argument(value):
    """Returns a value that is an argument, or in one, as JSON."""
    if hasattr(value, "__dataclass_fields__"):
        return {_wire(name): getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, (bytes, bytearray, set, frozenset)):
        return list(value)
    if hasattr(type(value), "__members__"):  # An `Enum`.
        return value.value if isinstance(value.value, str) else value.name
    raise TypeError(f"not an argument of a contract: {_shown(value)}")


def _is_in_task() -> bool:
    """Returns whether the current thread runs an asyncio loop."""
    asyncio = sys.modules.get("asyncio")
    try:
        return bool(asyncio and asyncio.get_running_loop())
    except RuntimeError:
        return False


def seconds(duration) -> float:
    """Converts nanoseconds, or a text such as `1h30m`, to seconds."""
    if not isinstance(duration, str):
        return duration / 1e9
    import re  # `json` has imported it already.
    unit = "(ns|us|µs|ms|s|m|h)"
    if not re.fullmatch(rf"0|([\d.]+{unit})+", duration):
        raise ValueError(f"invalid duration `{duration}`")
    parts = re.findall(rf"([\d.]+){unit}", duration)
    return sum(float(number) * UNIT_SECONDS[name] for number, name in parts)


def _start_config(arguments: list) -> str:
    """Returns the start configuration: of the arguments, the file, or the environment."""
    if len(arguments) == 2 and arguments[0] == "--config":
        return arguments[1]
    if len(arguments) == 1 and arguments[0].startswith("--config="):
        return arguments[0].partition("=")[2]
    if arguments:
        raise ValueError(f"unexpected arguments {arguments}")
    if path := os.environ.get("HOTBAY_CONFIG_FILE"):
        with open(path, encoding="utf-8") as file:
            return file.read()
    if "HOTBAY_CONFIG" not in os.environ:
        raise ValueError("expected `--config JSON` or HOTBAY_CONFIG")
    return os.environ["HOTBAY_CONFIG"]


def _listen(plugin_id: str, kind: str):
    """Listens on a socket or port; returns the listener, its location, and its files."""
    if kind == "tcp":
        listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_PENDING)
        listener.setblocking(False)
        return listener, f"http://127.0.0.1:{listener.getsockname()[1]}", []
    folder = os.environ.get("HOTBAY_SOCKET_DIR")
    name = f"{os.urandom(8).hex()}.socket" if folder else f"{plugin_id}-plugin.socket"
    path = os.path.join(folder or os.environ.get("TMPDIR", "/tmp"), name)
    lock = path + ".lock"
    if os.path.exists(path):
        try:
            with open(lock) as file:
                owner = int(file.read())
            os.kill(owner, 0)
            sys.exit(f"socket `{path}` is in use by process {owner}")
        except ProcessLookupError:
            os.remove(path)
            os.remove(lock)
        except (OSError, ValueError) as error:
            sys.exit(f"socket `{path}` already exists, with an unknown owner ({error}); remove it")
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o077)  # Only this user may connect.
    listener.bind(path)
    os.umask(mask)
    with open(lock, "w") as file:
        file.write(str(os.getpid()))
    listener.listen(MAX_PENDING)
    listener.setblocking(False)
    return listener, f"http+unix://{path}", [path, lock]


def _read_head(stream):
    """Returns method, path and headers of the next request, or None at the end."""
    head, remaining = [], MAX_HEAD_BYTES
    while not head or head[-1]:
        line = stream.readline(remaining)
        remaining -= len(line)
        if remaining <= 0:
            raise Rejected(431, f"head too large: expected at most {MAX_HEAD_BYTES} bytes")
        if not line.endswith(b"\n"):
            return None
        head.append(line.strip().decode("latin-1"))
    method, _, rest = head[0].partition(" ")
    fields = [line.split(":", 1) for line in head[1:-1] if ":" in line]
    headers = {name.lower(): value.strip() for name, value in fields}
    return method, rest.partition(" ")[0], headers


def _read_body(stream, headers: dict, max_body_bytes: int):
    """Returns the body of a request, or None if the connection ends before."""
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not (
            length.isdecimal() and length.isascii() and len(length) <= 20):
        raise Rejected(411, "missing or invalid header Content-Length")
    if int(length) > max_body_bytes:
        raise Rejected(413, f"body too large: expected at most {max_body_bytes} bytes")
    body = stream.read(int(length))
    return body if len(body) == int(length) else None


def _equal(given: bytes, expected: bytes) -> bool:
    """Compares in constant time. `hmac` has this, but importing it takes long."""
    differs = len(given) != len(expected)
    for one, other in zip(given, expected):
        differs |= one != other
    return not differs


def _failure(error: BaseException):
    """Returns status and body of the response to a call that failed."""
    if isinstance(error, Rejected):
        return error.status, error.body
    if isinstance(error, Error):
        try:
            _json(error.body())
            return 422, error.body()
        except (TypeError, ValueError) as invalid:  # Of its details.
            error = invalid
    return 500, {"code": 500, "message": "panicked", "fault": _fault(error)}


def _fault(error: BaseException) -> dict:
    """Returns the message of an exception, and where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    message = f"{type(error).__name__}: {error}"
    if trace is None:
        return {"message": message}
    location = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return {"message": message, "location": location}


def _wire(name: str) -> str:
    """Returns a name in contracts: a keyword of Python, such as `from`, is written `from_` here."""
    return name[:-1] if name[-1:] == "_" and name[:-1] in _keywords() else name


def _keywords() -> list:
    import keyword
    return keyword.kwlist


def _whole_number(headers: dict, name: str):
    """Returns the number in a header, or None."""
    text = headers.get(name)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise Rejected(400, f"invalid header {name}: expected a whole number, found `{text}`")
    return None if text is None else int(text)


def _milliseconds(call: Call):
    if call.remaining is None:
        return None
    return int(min(call.remaining, MAX_WAIT_SECONDS) * 1000) + 1


def _json(value) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _loggable(value):
    """Returns a value, or its text if it is not JSON."""
    if isinstance(value, (str, int)):
        return value
    try:
        json.dumps(value, default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # Such as a key, NaN, a circle.
        return repr(value)
    return value


def _expect(value, kind, name: str):
    if not isinstance(value, kind):
        raise Mismatch(f"expected {name}, found {_shown(value)}")
    return value


def _each(convert, values) -> list:
    return [convert(value) for value in values]


def _at(name, convert, value):
    """Converts the value of a field or an argument; names it if the value is invalid."""
    try:
        return convert(value)
    except Mismatch as error:
        raise Mismatch(f"`{name}`: {error}") from None


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
