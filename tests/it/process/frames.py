#!/usr/bin/env python3
# A program that serves frames, and breaks the protocol as `behavior.json` and its calls request.
import json, os, signal, socket, struct, sys, threading, time

FRAMES = "hotbay-frames/1"
if sys.argv[1:] == ["capabilities"]:
    print(json.dumps({"hotbay": {"protocol": 1, "name": "liar", "version": "0.1.0", "config": ["env"],
                                 "endpoints": ["execute"], "upgrades": [FRAMES]}}))
    sys.exit()

folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "behavior.json")) as file:
    behavior = json.load(file)
on_upgrade = behavior.get("upgrade", "accept")
if "starts" in behavior:  # of each start, the last one repeated
    with open(os.path.join(folder, "starts"), "a+") as file:
        file.write("x")
        file.flush()
        file.seek(0)
        nth = len(file.read()) - 1
    on_upgrade = behavior["starts"][min(nth, len(behavior["starts"]) - 1)]
lock = threading.Lock()

def note(line):
    if "journal" in behavior:
        with lock, open(behavior["journal"], "a") as file:
            file.write(line + "\n")

def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])

def number(data):
    value = shift = 0
    while True:
        byte = data.pop(0)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value

def request(frame):
    head = bytearray(frame)
    call_id = number(head)
    if head.pop(0):
        number(head)
    if head.pop(0):
        del head[:25]
    if head.pop(0):
        number(head)
    for _ in range(2):
        length = number(head)
        del head[:length]
    return call_id, bytes(head)

def reply(call_id, body, status=200, content_type=b"application/json"):
    frame = varint(call_id) + varint(status) + varint(len(content_type)) + content_type + body
    return struct.pack("<I", len(frame)) + frame

class End(Exception):
    pass

class Connection:
    def __init__(self, sock):
        self.sock, self.data = sock, b""

    def need(self, count):
        while len(self.data) < count:
            self.more()
        data, self.data = self.data[:count], self.data[count:]
        return data

    def more(self):
        part = self.sock.recv(1 << 16)
        if not part:
            raise End
        self.data += part

    def run(self):
        try:
            while self.http():
                pass
            while True:
                self.frame()
        except (End, OSError):
            pass
        self.sock.close()

    def respond(self, status, body=b"", more=""):
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    # Returns whether the connection still carries HTTP.
    def http(self):
        while b"\r\n\r\n" not in self.data:
            self.more()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        body = self.need(int(headers.get("content-length", 0)))
        path = lines[0].split()[1]
        if headers.get("upgrade") == FRAMES:
            note("upgrade")
            return self.upgrade()
        if path == "/shutdown":
            self.respond("200 OK")
            os.kill(os.getpid(), signal.SIGTERM)
        elif path == "/execute":
            note("http")
            self.respond("200 OK", body)
        else:
            self.respond("200 OK")
        return True

    def upgrade(self):
        accept = f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {FRAMES}\r\n\r\n".encode()
        if on_upgrade == "refuse":
            self.respond("200 OK")
            return True
        if on_upgrade == "close":
            raise End
        if on_upgrade == "silent":
            time.sleep(3600)
        if on_upgrade == "informational":
            while True:
                self.sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40000)
        if on_upgrade == "endless head":
            self.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
            while True:
                self.sock.sendall(b"x-y: z\r\n" * 1000)
        if on_upgrade == "nonsense":
            self.sock.sendall(b"nonsense\r\n\r\n")
            raise End
        if on_upgrade == "slow":
            time.sleep(0.3)
        if on_upgrade == "reply first":
            accept += reply(1, b'"early"')
        if on_upgrade == "plain HTTP":
            accept += b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.sock.sendall(accept)
        if on_upgrade == "accept and close":
            raise End
        if on_upgrade == "accept and stop reading":
            time.sleep(3600)
        return False

    def frame(self):
        length, = struct.unpack("<I", self.need(4))
        call_id, body = request(self.need(length))
        try:
            action = json.loads(body)
        except ValueError:
            action = None
        do = action.get("do") if isinstance(action, dict) else None
        note(f"frame {do}")
        if do == "bytes":
            self.sock.sendall(bytes.fromhex(action["hex"]))
            if action.get("then") == "close":
                raise End
            if action.get("then") == "exit":
                os._exit(0)
            if action.get("then") == "wait":
                self.more()
        elif do == "close":
            raise End
        elif do == "exit":
            os._exit(action.get("code", 0))
        elif do == "wait":
            self.more()  # until the host closes the connection
        elif do == "twice":
            self.sock.sendall(reply(call_id, b'"first"') * 2)
        elif do == "late":  # a second reply, sent when the host has read the first one
            self.sock.sendall(reply(call_id, b'"first"'))
            while not os.path.exists(action["gate"]):
                time.sleep(0.005)
            self.sock.sendall(reply(call_id, b'"second"'))
            note("late sent")
        elif do == "large":
            self.sock.sendall(reply(call_id, b"x" * action["bytes"], content_type=b"text/plain"))
        elif do == "status":
            self.sock.sendall(reply(call_id, b"", action["status"], action.get("type", "a/b").encode()))
        elif do == "close idle":
            self.sock.sendall(reply(call_id, b'"closed"'))
            time.sleep(0.05)
            self.sock.shutdown(socket.SHUT_RDWR)
            note("closed idle")
            raise End
        else:
            self.sock.sendall(reply(call_id, body))

def serve(listener):
    while True:
        sock, _ = listener.accept()
        run = Connection(sock).run
        if behavior.get("at_once") == 1:
            run()
        else:
            threading.Thread(target=run, daemon=True).start()

signals = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
config = json.loads(os.environ["HOTBAY_CONFIG"])
if config["type"] == "tcp":
    listener = socket.create_server(("127.0.0.1", 0))
    location = f"http://127.0.0.1:{listener.getsockname()[1]}"
else:
    path = os.path.join(os.environ["HOTBAY_SOCKET_DIR"], "liar.socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    location = f"http+unix://{path}"
threading.Thread(target=serve, args=(listener,), daemon=True).start()
print(location, flush=True)
signal.sigwait(signals)
os._exit(0)
