#!/usr/bin/env python3
"""Serves methods of `tables` that return streams, by hand, with the standard library only."""
import json, os, select, signal, socket, socketserver, sys, threading, time
from http.server import BaseHTTPRequestHandler

CONTRACT = """contract tables 1.1
stream fn count(from: u64) -> u64
stream fn rows(texts: [string]) -> Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }
stream fn texts(lengths: [u32]) -> string
stream fn fail(after: u64, how: enum Failure { Error, Panic, None }) -> u64
stream fn refuse() -> u64
stream fn wait() -> u64
stream fn limits() -> (bool, bool)
stream fn ticks(to: u64, ms: u64) -> u64
stream fn fail_later(after: u64, how: enum Failure { Error, Panic, None }) -> u64
fn made() -> u64
fn dropped() -> u64
#since 1.1 #default stream fn even() -> u64
"""

if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"hotbay": {"protocol": 1, "name": "program", "version": "0.1.0",
                                 "endpoints": ["execute"], "config": ["env"],
                                 "contracts": [{"text": CONTRACT}]}}))
    sys.exit()


class Failure(Exception):
    """An error of the plugin."""

    def __init__(self, code, message):
        self.body = {"code": code, "message": message, "retryable": False}


def expect(value, kind):
    """Returns a value of this type; `bool` is not a number."""
    if type(value) is not kind:
        raise TypeError(f"found {value!r}")
    return value


made, dropped = 0, 0


def counted(items):
    """Counts items, and the streams that have ended or were dropped."""
    global made, dropped
    try:
        for item in items:
            made += 1
            yield item
    finally:
        dropped += 1


def numbers(start, end=2**64, pause=0):
    for number in range(start, end):
        time.sleep(pause)
        yield number


def failing(after, how):
    yield from range(after)
    if how == "Error":
        raise Failure(7, "no")
    if how == "Panic":
        raise RuntimeError("reading failed")


def waiting(is_cancelled):
    yield 0
    while not is_cancelled():
        time.sleep(0.001)
    raise Failure(499, "cancelled")


def row(text):
    return {"text": text, "words": len(text.split()), "tags": {}, "added": False}


class Tables:
    """Methods that return streams check the arguments, and return an iterator."""

    def count(given, call):
        return counted(numbers(expect(given["from"], int)))

    def rows(given, call):
        return map(row, [expect(text, str) for text in expect(given["texts"], list)])

    def texts(given, call):
        return ("x" * length for length in
                [expect(length, int) for length in expect(given["lengths"], list)])

    def fail(given, call):
        return failing(expect(given["after"], int), expect(given["how"], str))

    def refuse(given, call):
        raise Failure(404, "no table")

    def wait(given, call):
        return counted(waiting(call.is_cancelled))

    def limits(given, call):
        return iter(lambda: [call.has_deadline, call.is_cancelled()], None)

    def ticks(given, call):
        return counted(numbers(0, expect(given["to"], int), expect(given["ms"], int) / 1000))

    fail_later = fail

    def even(given, call):
        return (2 * number for number in numbers(0))

    def made(given, call):
        return made

    def dropped(given, call):
        return dropped


class Plugin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reject(self, status, message):
        self.reply(status, {"message": message, "statusCode": status})

    def is_cancelled(self):
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return True
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def write_line(self, value):
        line = json.dumps(value).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def stream(self, items):
        """Writes a line for each item; blocks while the host does not read."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for item in items:
                self.write_line({"item": item})
            last = {"end": True}
        except OSError:
            # The host has closed the connection.
            self.close_connection = True
            return
        except Failure as failure:
            last = {"error": failure.body}
        except Exception as error:
            last = {"error": {"code": 500, "message": "panicked", "fault": {"message": str(error)}}}
        finally:
            if hasattr(items, "close"):
                items.close()
        self.write_line(last)
        self.wfile.write(b"0\r\n\r\n")

    def method(self, name, body):
        method = vars(Tables).get(name)
        if method is None:
            return self.reject(404, f"method `{name}` not found")
        ms = self.headers.get("Hotbay-Deadline-Ms")
        self.deadline = ms and time.monotonic() + int(ms) / 1000
        self.has_deadline = ms is not None
        try:
            result = method(expect(json.loads(body), dict), self)
        except Failure as failure:
            return self.reply(422, failure.body)
        except (KeyError, TypeError, ValueError) as error:
            return self.reject(400, f"invalid arguments: {error}")
        if name in ("made", "dropped"):
            return self.reply(200, result)
        self.stream(result)

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        contract = "/contract/tables/"
        if self.headers.get("Hotbay-Token") != os.environ.get("HOTBAY_TOKEN"):
            self.reject(401, "invalid token")
        elif self.path in ("/healthz", "/execute"):
            self.reply(200, None)
        elif self.path == "/shutdown":
            self.reply(200, None)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.path.startswith(contract):
            self.method(self.path.removeprefix(contract), body)
        else:
            self.reject(404, f"endpoint `{self.path}` not found")

    do_POST = do_GET
    log_message = lambda self, *_: None


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


signals = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
path = os.path.join(os.environ["HOTBAY_SOCKET_DIR"], "tables.socket")
with Server(path, Plugin) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http+unix://{path}", flush=True)
    signal.sigwait(signals)
    os.unlink(path)
    server.shutdown()
