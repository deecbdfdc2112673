#!/usr/bin/env python3
"""Serves the contract `data-processor`, with the standard library only."""
import json, os, signal, socketserver, sys, threading
from http.server import BaseHTTPRequestHandler

CONTRACT = """contract data-processor 1.0
fn ping() -> string
fn process_data(record: Record { name: string, values: [i64] }) -> Processed { name: string, sorted: [i64], sum: i64 }
"""

if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"hotbay": {"protocol": 1, "name": "data-processor-python", "version": "0.1.0",
                                 "endpoints": ["execute"], "config": ["env"],
                                 "contracts": [{"text": CONTRACT}]}}))
    sys.exit()


class Failure(Exception):
    """An error of the plugin."""

    def __init__(self, code, message):
        self.body = {"code": code, "message": message, "retryable": False}


def ping(given):
    return "a program in Python"


def process_data(given):
    name, values = given["record"]["name"], given["record"]["values"]
    if not values:
        raise Failure(422, f"`{name}` has no values")
    total = max(-(2**63), min(2**63 - 1, sum(values)))
    return {"name": name, "sorted": sorted(values), "sum": total}


METHODS = {f"/contract/data-processor/{method.__name__}": method for method in (ping, process_data)}


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

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Hotbay-Token") != os.environ.get("HOTBAY_TOKEN"):
            self.reject(401, "invalid token")
        elif self.path == "/healthz":
            self.reply(200, None)
        elif self.path == "/shutdown":
            self.reply(200, None)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.path == "/execute":
            self.reply(422, Failure(501, "call the contract `data-processor`").body)
        elif self.path in METHODS:
            try:
                self.reply(200, METHODS[self.path](json.loads(body)))
            except Failure as failure:
                self.reply(422, failure.body)
            except (KeyError, TypeError, ValueError) as error:
                self.reject(400, f"invalid arguments: {error}")
        else:
            self.reject(404, f"endpoint `{self.path}` not found")

    do_POST = do_GET
    log_message = lambda self, *_: None


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


signals = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
path = os.path.join(os.environ["HOTBAY_SOCKET_DIR"], "data-processor.socket")
with Server(path, Plugin) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http+unix://{path}", flush=True)
    signal.sigwait(signals)
    os.unlink(path)
    server.shutdown()
