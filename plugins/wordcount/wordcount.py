#!/usr/bin/env python3
"""Counts lines, words and characters of a text: a hotbay plugin in a process of its own.

Three parts, from top to bottom: the work; the HTTP that hosts speak; start and end. Only the
first is about words: with another `analyse`, the rest serves any plugin that keeps no state.
Standard library only, and little of that: somebody waits while this starts.
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

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 64 << 20
FINISH_SECONDS_MAX = 5
WORD = re.compile(r"\w+(?:['’-]\w+)*")
UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Failure(Exception):
    """An error for the caller, with this plugin's own `code`, or a request that cannot be."""

    def __init__(self, status, message, **more):
        super().__init__(message)
        self.status, self.answer = status, {"message": message, "statusCode": status, **more}


def analyse(body, top=10, min_length=1, ignore=()):
    """Counts what is in a text; `body` is its UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        message = f"the input is not UTF-8, from byte {error.start} on"
        raise Failure(422, message, code=400, details={"byte": error.start}) from None
    words = WORD.findall(text)
    listed = collections.Counter(word for word in map(str.lower, words) if len(word) >= min_length)
    for word in ignore:
        del listed[word]
    # Words that are as frequent stand in the order of the alphabet: the same answer each time.
    frequent = sorted(listed.items(), key=lambda item: (-item[1], item[0]))[:top]
    lines = text.count("\n") + (text != "" and not text.endswith("\n"))
    return {"lines": lines, "words": len(words), "characters": len(text), "bytes": len(body),
            "frequent": [{"word": word, "count": count} for word, count in frequent]}


class Server:
    """Answers requests, a thread a connection; knows what runs, and since when nothing does."""

    def __init__(self, settings, token, end):
        self.settings, self.token, self.end = settings, token, end
        self.lock = threading.Lock()
        self.connections, self.running, self.idle_since = {}, 0, time.monotonic()

    def accept(self, listener):
        """Lets everybody in who waits."""
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
                        send(connection, *self.answer(*request))
                except Failure as refused:
                    send(connection, refused.status, refused.answer, "Connection: close\r\n")
        except OSError:
            pass  # The host hung up: it wants no answer any more.
        finally:
            with self.lock:
                del self.connections[connection]

    def answer(self, method, path, headers, body):
        # The token protects every path, so that nobody else learns anything.
        if self.token and headers.get("hotbay-token") != self.token:
            raise Failure(401, "the header `Hotbay-Token` is missing or another")
        methods = {"/healthz": "GET", "/execute": "POST", "/batch": "POST", "/shutdown": None}
        if path not in methods:
            raise Failure(404, f"there is no `{path}`; there are {', '.join(methods)}")
        if methods[path] not in (method, None):
            raise Failure(405, f"`{path}` is asked by {methods[path]}, not by {method}")
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
            return 200, analyse(body, **self.settings)
        except Failure as failure:
            return failure.status, failure.answer
        except Exception as error:  # A mistake of the plugin's ends the call, not the plugin.
            import traceback  # Seldom needed.
            place = traceback.extract_tb(error.__traceback__)[-1]
            fault = {"message": repr(error), "location": f"{place.filename}:{place.lineno}"}
            return 500, {"code": 500, "message": "panicked", "fault": fault}

    def batch(self, headers, body):
        until = time.monotonic() + int(headers.get("hotbay-deadline-ms", 10**9)) / 1000
        try:
            inputs = [base64.b64decode(one["body"]) for one in json.loads(body)["requests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(400, f"this is no batch: {error!r}") from None
        late = 422, {"code": 504, "message": "the deadline has passed", "retryable": True}
        replies = []
        for one in inputs:
            status, answer = self.execute(one) if time.monotonic() < until else late
            told = base64.b64encode(json.dumps(answer).encode()).decode()
            reply = {"contentType": "application/json", "body": told}
            replies.append(reply if status == 200 else {"error": answer})
        return 200, {"replies": replies}


def read_request(stream):
    """Method, path, headers and body of the next request; None where the stream ends."""
    head, left = [], HEAD_BYTES_MAX
    while not head or head[-1]:
        line = stream.readline(left)
        left -= len(line)
        if left <= 0:
            raise Failure(431, f"the head has more than {HEAD_BYTES_MAX} bytes")
        if not line.endswith(b"\n"):
            return None
        head.append(line.strip().decode("latin-1"))
    method, _, rest = head[0].partition(" ")
    fields = [line.split(":", 1) for line in head[1:-1] if ":" in line]
    headers = {name.lower(): value.strip() for name, value in fields}
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal():
        raise Failure(411, "the body needs its length in the header `Content-Length`")
    if int(length) > BODY_BYTES_MAX:
        raise Failure(413, f"the body has {length} bytes, more than {BODY_BYTES_MAX}")
    body = stream.read(int(length))
    return (method, rest.partition(" ")[0], headers, body) if len(body) == int(length) else None


def send(connection, status, answer, header=""):
    body = json.dumps(answer).encode()
    head = (f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{header}\r\n")
    connection.sendall(head.encode() + body)


def log(level, message, **fields):
    """A line for the host's log; one write, so that the lines of threads do not mix."""
    line = {"level": level, "msg": message, "target": "wordcount", **fields}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def seconds(duration):
    """Seconds of a number of nanoseconds, or of a text such as `1h30m`."""
    if not isinstance(duration, str):
        return duration / 1e9
    parts = re.findall(r"([\d.]+)(h|ms|us|ns|m|s)", duration)
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)


def listen(plugin_id):
    """Binds a socket, with a lock beside it that tells whose it is; answers with their paths."""
    folder = os.environ.get("HOTBAY_SOCKET_DIR")
    name = f"{os.urandom(8).hex()}.socket" if folder else f"{plugin_id}-plugin.socket"
    path = os.path.join(folder or os.environ.get("TMPDIR", "/tmp"), name)
    lock = path + ".lock"
    if os.path.exists(path):
        try:
            with open(lock) as file:
                owner = int(file.read())
            os.kill(owner, 0)
            sys.exit(f"`{path}` belongs to process {owner}, which runs")
        except ProcessLookupError:
            os.remove(path)
            os.remove(lock)
        except (OSError, ValueError) as error:
            sys.exit(f"`{path}` is there, and nobody knows whose it is ({error}); remove it")
    listener = socket.socket(socket.AF_UNIX)
    os.umask(0o077)  # Nobody else may connect, wherever the folder is.
    listener.bind(path)
    with open(lock, "w") as file:
        file.write(str(os.getpid()))
    listener.listen(128)
    listener.setblocking(False)
    return listener, [path, lock]


def serve(config):
    """Serves until a signal, `/shutdown`, or nothing to do for as long as `idleTimeout`."""
    own = [one for one in config.get("configTypes", []) if one["type"] == "hotbay/v1"]
    settings = json.loads(base64.b64decode(own[0]["data"])) if own else {}
    idle_seconds_max = seconds(config.get("idleTimeout", "1h"))
    ended, end = socket.socketpair()
    server = Server(settings, os.environ.get("HOTBAY_TOKEN"), lambda: end.send(b"x"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.send(b"x"))
    listener, files = listen(config.get("id", "wordcount"))
    print(f"http+unix://{files[0]}", flush=True)
    log("info", "ready", settings=settings)
    readable = []
    while ended not in readable:
        server.accept(listener)
        with server.lock:
            idle = 0 if server.running else time.monotonic() - server.idle_since
        if 0 < idle_seconds_max <= idle:
            break
        wait = idle_seconds_max - idle if idle_seconds_max else None
        readable, _, _ = select.select([listener, ended], [], [], wait)
    # Nothing that was accepted is lost: nobody finds the socket any more, whoever has already
    # connected is let in, and what was already sent can still be read after SHUT_RD.
    for file in files:
        os.remove(file)
    server.accept(listener)
    listener.close()
    with server.lock:
        connections = list(server.connections.items())
    until = time.monotonic() + FINISH_SECONDS_MAX
    for connection, _ in connections:
        with contextlib.suppress(OSError):  # It may have ended by itself.
            connection.shutdown(socket.SHUT_RD)
    for _, thread in connections:
        thread.join(max(until - time.monotonic(), 0))


def main(arguments):
    if "capabilities" in arguments:
        own = {"protocol": 1, "name": "wordcount", "version": "0.1.0",
               "endpoints": ["execute", "batch"], "config": ["env"]}
        print(json.dumps({"hotbay": own}))
        return
    given = dict(zip(arguments, arguments[1:])).get("--config")
    text = os.environ.get("HOTBAY_CONFIG", given)
    if text is None:
        sys.exit("this is a plugin: a host starts it, with `--config JSON` or HOTBAY_CONFIG")
    serve(json.loads(text))


if __name__ == "__main__":
    main(sys.argv[1:])
