#!/usr/bin/env python3
"""Serves `text-analysis` 1.1 by hand, with the standard library only."""
import collections, json, os, select, signal, socket, socketserver, sys, threading, time
from http.server import BaseHTTPRequestHandler

CONTRACT = """contract text-analysis 1.1
fn words(text: string) -> u64
fn score(a: f64, b: f64) -> f64
fn sum(numbers: [f64]) -> f64
fn lengths(texts: [string]) -> [u64]
fn shout(text: string?) -> string?
fn move_by(point: Point { x: f64, y: f64 }, by: Point { x: f64, y: f64 }) -> Point { x: f64, y: f64 }
// A reader of `Record` uses a default if `added` is missing.
fn enrich(record: Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }) -> Record { text: string, words: u64?, tags: map<string, i64>, added: bool = default }
fn fail(how: enum Failure { Error, Panic, None }) -> u32
fn limits() -> (bool, bool)
#permission write fn store(text: string) -> unit
fn wait() -> unit
#since 1.1 fn top(text: string, n: u32) -> [Word { text: string, count: u64 }]
#since 1.1 fn longest(text: string) -> string
"""

if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"hotbay": {"protocol": 1, "name": "program", "version": "0.1.0",
                                 "endpoints": ["execute"], "config": ["env"],
                                 "contracts": [{"text": CONTRACT}]}}))
    sys.exit()


class Failure(Exception):
    """An error of the plugin."""

    def __init__(self, code, message, **more):
        self.body = {"code": code, "message": message, "retryable": False, **more}


class Call:
    """The deadline of a call, and whether it is cancelled."""

    def __init__(self, connection, deadline_ms):
        self.connection = connection
        self.deadline = deadline_ms and time.monotonic() + int(deadline_ms) / 1000

    def is_cancelled(self):
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return True
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""


def expect(value, *kinds):
    """Returns a value of one of these types; `bool` is not a number."""
    if type(value) not in kinds:
        raise TypeError(f"found {value!r}")
    return value


class Analysis:
    """Methods take the call and the arguments, as an object."""

    def words(self, call, given):
        return len(expect(given["text"], str).split())

    def score(self, call, given):
        return expect(given["a"], int, float) + expect(given["b"], int, float)

    def sum(self, call, given):
        return sum(expect(number, int, float) for number in expect(given["numbers"], list))

    def lengths(self, call, given):
        return [len(expect(text, str).encode()) for text in expect(given["texts"], list)]

    def shout(self, call, given):
        text = given.get("text")
        return text if text is None else expect(text, str).upper()

    def move_by(self, call, given):
        point, by = expect(given["point"], dict), expect(given["by"], dict)
        return {"x": point["x"] + by["x"], "y": point["y"] + by["y"]}

    def enrich(self, call, given):
        record = expect(given["record"], dict)
        return {**record, "words": len(expect(record["text"], str).split()), "added": True}

    def fail(self, call, given):
        how = expect(given["how"], str)
        if how == "Error":
            raise Failure(7, "no", details=[1])
        if how == "Panic":
            raise RuntimeError("analysis failed")
        return 7

    def limits(self, call, given):
        return [call.deadline is not None, call.is_cancelled()]

    def store(self, call, given):
        expect(given["text"], str)

    def wait(self, call, given):
        while not call.is_cancelled():
            time.sleep(0.001)
        raise Failure(499, "cancelled")

    def top(self, call, given):
        counts = collections.Counter(expect(given["text"], str).split())
        words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"text": text, "count": count} for text, count in words[:expect(given["n"], int)]]

    def longest(self, call, given):
        words = expect(given["text"], str).split()
        if not words:
            raise Failure(404, "no words")
        return max(words, key=len)


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

    def method(self, name, body):
        method = vars(Analysis).get(name)
        if method is None:
            return self.reject(404, f"method `{name}` not found")
        call = Call(self.connection, self.headers.get("Hotbay-Deadline-Ms"))
        try:
            arguments = expect(json.loads(body), dict)
            result = method(Analysis(), call, arguments)
        except Failure as failure:
            return self.reply(422, failure.body)
        except (KeyError, TypeError, ValueError) as error:
            return self.reject(400, f"invalid arguments: {error}")
        except Exception as error:
            return self.reply(500, {"code": 500, "message": "panicked",
                                    "fault": {"message": str(error)}})
        self.reply(200, result)

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        contract = "/contract/text-analysis/"
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
path = os.path.join(os.environ["HOTBAY_SOCKET_DIR"], "analyst.socket")
with Server(path, Plugin) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http+unix://{path}", flush=True)
    signal.sigwait(signals)
    os.unlink(path)
    server.shutdown()
