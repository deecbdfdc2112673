#!/usr/bin/env python3
"""Processes records over the older dialect of the protocol, and knows no contracts.

Its plugin.json maps the methods of the contract `data-processor` onto the endpoints `/ping` and
`/process`.
"""
import json, os, signal, socketserver, sys, tempfile, threading
from http.server import BaseHTTPRequestHandler

if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"types": {"processor": [{"type": "record"}]}}))
    sys.exit()


class Rejected(Exception):
    """A record that cannot be processed."""


def process(record):
    name, values = record["name"], record["values"]
    if not values:
        raise Rejected(f"`{name}` has no values")
    total = max(-(2**63), min(2**63 - 1, sum(values)))
    return {"name": name, "sorted": sorted(values), "sum": total}


ENDPOINTS = {"/ping": lambda _: "a program of the older dialect", "/process": process}


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
        if self.path == "/healthz":
            self.reply(200, None)
        elif self.path == "/shutdown":
            self.reply(200, None)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.path in ENDPOINTS:
            try:
                self.reply(200, ENDPOINTS[self.path](json.loads(body)))
            except Rejected as error:
                self.reject(422, str(error))
            except (KeyError, TypeError, ValueError) as error:
                self.reject(400, f"invalid body: {error}")
        else:
            self.reject(404, f"endpoint `{self.path}` not found")

    do_POST = do_GET
    log_message = lambda self, *_: None


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


signals = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
config = json.loads(sys.argv[sys.argv.index("--config") + 1])
path = os.path.join(tempfile.gettempdir(), f"{config['id']}-plugin.socket")
with open(f"{path}.lock", "w") as lock:
    lock.write(str(os.getpid()))
with Server(path, Plugin) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http+unix://{path}", flush=True)
    signal.sigwait(signals)
    server.shutdown()
os.unlink(path)
os.unlink(f"{path}.lock")
