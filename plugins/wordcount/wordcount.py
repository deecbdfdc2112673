#!/usr/bin/env python3
"""Counts lines, words and characters of a text: a hotbay plugin as a program.

Three parts, from top to bottom: the analysis, the HTTP server, start and shutdown. With another
`analyze`, the rest serves any plugin without state. Imports few modules of the standard library,
so that it starts fast.
"""
import base64
import collections
import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 64 << 20
DRAIN_TIMEOUT_SECONDS = 5
WORD = re.compile(r"\w+(?:['’-]\w+)*")
UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Failure(Exception):
    """An error for the caller with the plugin's own `code`, or an invalid request."""

    def __init__(self, status, message, **more):
        super().__init__(message)
        self.status, self.body = status, {"message": message, "statusCode": status, **more}


def analyze(body, top=10, min_length=1, ignore=()):
    """Analyzes a text in UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        message = f"invalid UTF-8 at byte {error.start}"
        raise Failure(422, message, code=400, details={"byte": error.start}) from None
    words = WORD.findall(text)
    listed = collections.Counter(word for word in map(str.lower, words) if len(word) >= min_length)
    for word in ignore:
        del listed[word]
    # Words with the same frequency are sorted, so that the output is deterministic.
    frequent = sorted(listed.items(), key=lambda item: (-item[1], item[0]))[:top]
    lines = text.count("\n") + (text != "" and not text.endswith("\n"))
    return {"lines": lines, "words": len(words), "characters": len(text), "bytes": len(body),
            "frequent": [{"word": word, "count": count} for word, count in frequent]}


class Server:
    """Serves each connection on a thread; tracks running calls and idle time."""

    def __init__(self, settings, token, end):
        self.settings, self.token, self.end = settings, token, end
        self.lock = threading.Lock()
        self.connections, self.running, self.idle_since = {}, 0, time.monotonic()

    def accept(self, listener):
        """Accepts all pending connections."""
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(True)
                thread = threading.Thread(target=self.serve, args=[connection], daemon=True)
                with self.lock:
                    self.connections[connection] = thread
                thread.start()

    def serve(self, connection):
        try:
            with connection, connection.makefile("rb") as stream:
                try:
                    while request := read_request(stream):
                        send(connection, *self.respond(*request))
                except Failure as failure:
                    send(connection, failure.status, failure.body, "Connection: close\r\n")
        except OSError:
            pass  # The host closed the connection.
        finally:
            with self.lock:
                del self.connections[connection]

    def respond(self, method, path, headers, body):
        # The token protects all paths, including unknown ones.
        if self.token and headers.get("hotbay-token") != self.token:
            raise Failure(401, "invalid or missing header Hotbay-Token")
        methods = {"/healthz": "GET", "/execute": "POST", "/batch": "POST", "/shutdown": None}
        if path not in methods:
            raise Failure(404, f"endpoint `{path}` not found")
        if methods[path] not in (method, None):
            message = f"wrong method for `{path}`: expected {methods[path]}, found {method}"
            raise Failure(405, message)
        if path == "/shutdown":
            self.end()
        if path in ("/healthz", "/shutdown"):
            return 200, {}
        with self.lock:
            self.running += 1
        try:
            return self.batch(headers, body) if path == "/batch" else self.execute(body)
        finally:
            with self.lock:
                self.running -= 1
                self.idle_since = time.monotonic()

    def execute(self, body):
        try:
            return 200, analyze(body, **self.settings)
        except Failure as failure:
            return failure.status, failure.body
        except Exception as error:  # An unexpected error fails one call only.
            import traceback  # Rarely needed.
            place = traceback.extract_tb(error.__traceback__)[-1]
            fault = {"message": repr(error), "location": f"{place.filename}:{place.lineno}"}
            return 500, {"code": 500, "message": "panicked", "fault": fault}

    def batch(self, headers, body):
        deadline = time.monotonic() + int(headers.get("hotbay-deadline-ms", 10**9)) / 1000
        try:
            inputs = [base64.b64decode(call["body"]) for call in json.loads(body)["requests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(400, f"invalid batch: {error!r}") from None
        message = "the deadline passed before this call started"
        timed_out = 422, {"code": 408, "message": message, "retryable": True}
        replies = []
        for text in inputs:
            status, output = self.execute(text) if time.monotonic() < deadline else timed_out
            encoded = base64.b64encode(json.dumps(output).encode()).decode()
            reply = {"contentType": "application/json", "body": encoded}
            replies.append(reply if status == 200 else {"error": output})
        return 200, {"replies": replies}


def read_request(stream):
    """Returns method, path, headers and body of the next request, or None at the end."""
    head, remaining = [], MAX_HEAD_BYTES
    while not head or head[-1]:
        line = stream.readline(remaining)
        remaining -= len(line)
        if remaining <= 0:
            raise Failure(431, f"head too large: expected at most {MAX_HEAD_BYTES} bytes")
        if not line.endswith(b"\n"):
            return None
        head.append(line.strip().decode("latin-1"))
    method, _, rest = head[0].partition(" ")
    fields = [line.split(":", 1) for line in head[1:-1] if ":" in line]
    headers = {name.lower(): value.strip() for name, value in fields}
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal():
        raise Failure(411, "missing or invalid header Content-Length")
    if int(length) > MAX_BODY_BYTES:
        raise Failure(413, f"body too large: expected at most {MAX_BODY_BYTES} bytes")
    body = stream.read(int(length))
    return (method, rest.partition(" ")[0], headers, body) if len(body) == int(length) else None


def send(connection, status, value, header=""):
    body = json.dumps(value).encode()
    head = (f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{header}\r\n")
    connection.sendall(head.encode() + body)


def log(level, message, **fields):
    """Writes a line to the host's log. A single write, so that lines of threads do not mix."""
    line = {"level": level, "msg": message, "target": "wordcount", **fields}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def seconds(duration):
    """Converts nanoseconds, or a text such as `1h30m`, to seconds."""
    if not isinstance(duration, str):
        return duration / 1e9
    parts = re.findall(r"([\d.]+)(h|ms|us|ns|m|s)", duration)
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)


def listen(plugin_id):
    """Creates a socket and its lock file; returns the listener and the paths of both."""
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
    os.umask(0o077)  # Only this user may connect.
    listener.bind(path)
    with open(lock, "w") as file:
        file.write(str(os.getpid()))
    listener.listen(128)
    listener.setblocking(False)
    return listener, [path, lock]


def serve(config):
    """Serves until a signal, `/shutdown`, or the idle timeout."""
    entries = [entry for entry in config.get("configTypes", []) if entry["type"] == "hotbay/v1"]
    settings = json.loads(base64.b64decode(entries[0]["data"])) if entries else {}
    idle_timeout = seconds(config.get("idleTimeout", "1h"))
    ended, end = socket.socketpair()
    server = Server(settings, os.environ.get("HOTBAY_TOKEN"), lambda: end.send(b"x"))
    # A handler in Python does not run while `select` waits, if the signal arrived just before it or
    # on another thread. The descriptor is written at once.
    end.setblocking(False)
    signal.set_wakeup_fd(end.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    listener, files = listen(config.get("id", "wordcount"))
    print(f"http+unix://{files[0]}", flush=True)
    log("info", "ready", settings=settings)
    readable = []
    while ended not in readable:
        server.accept(listener)
        with server.lock:
            idle = 0 if server.running else time.monotonic() - server.idle_since
        if 0 < idle_timeout <= idle:
            break
        wait = idle_timeout - idle if idle_timeout else None
        readable, _, _ = select.select([listener, ended], [], [], wait)
    # No accepted request is lost: the socket is removed first, pending connections are accepted,
    # and requests that have arrived can still be read after SHUT_RD.
    for file in files:
        os.remove(file)
    server.accept(listener)
    listener.close()
    with server.lock:
        connections = list(server.connections.items())
    deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
    for connection, _ in connections:
        with contextlib.suppress(OSError):  # It may be closed already.
            connection.shutdown(socket.SHUT_RD)
    for _, thread in connections:
        thread.join(max(deadline - time.monotonic(), 0))


def main(arguments):
    if "capabilities" in arguments:
        capabilities = {"protocol": 1, "name": "wordcount", "version": "0.1.0",
                        "endpoints": ["execute", "batch"], "config": ["env"]}
        print(json.dumps({"hotbay": capabilities}))
        return
    given = dict(zip(arguments, arguments[1:])).get("--config")
    text = os.environ.get("HOTBAY_CONFIG", given)
    if text is None:
        sys.exit("no start configuration found: expected `--config JSON` or HOTBAY_CONFIG")
    serve(json.loads(text))


if __name__ == "__main__":
    main(sys.argv[1:])
