#!/usr/bin/env python3
"""Calls contracts of its host by hand: each call of `execute` is one request to the host."""
import http.client, json, os, signal, socket, socketserver, sys, threading
from http.server import BaseHTTPRequestHandler

if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"hotbay": {"protocol": 1, "name": "program", "version": "0.1.0",
                                 "endpoints": ["execute"], "config": ["env"]}}))
    sys.exit()


class HostConnection(http.client.HTTPConnection):
    """A connection to the host's services."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["HOTBAY_HOST"].removeprefix("http+unix://"))


def call_host(path, body, headers):
    connection = HostConnection("host")
    headers = {"Hotbay-Token": os.environ["HOTBAY_TOKEN"], "Content-Type": "application/json",
               **headers}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    answer = {"status": response.status, "body": json.loads(response.read())}
    connection.close()
    return answer


class Plugin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def execute(self, given):
        # The headers of this call, which the host then knows as the outer call.
        names = ["Hotbay-Call-Id", "Hotbay-Deadline-Ms", "traceparent"]
        outer = {name: self.headers[name] for name in names if name in self.headers}
        headers = {**outer, **given.get("headers", {})}
        return call_host(given["path"], given["body"], headers)

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Hotbay-Token") != os.environ.get("HOTBAY_TOKEN"):
            self.reply(401, {"message": "invalid token", "statusCode": 401})
        elif self.path == "/execute":
            self.reply(200, self.execute(json.loads(body)))
        elif self.path == "/shutdown":
            self.reply(200, None)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.reply(200, None)

    do_POST = do_GET
    log_message = lambda self, *_: None


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


signals = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
path = os.path.join(os.environ["HOTBAY_SOCKET_DIR"], "caller.socket")
with Server(path, Plugin) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http+unix://{path}", flush=True)
    signal.sigwait(signals)
    os.unlink(path)
    server.shutdown()
