"""Tests of wordcount: `python3 -m unittest` in this folder."""
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import hotbay
import wordcount

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wordcount.py")
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}


class Analyze(unittest.TestCase):
    def test_text_is_counted(self):
        found = wordcount.analyze("The cat's the cat\nun naïve".encode())
        self.assertEqual((found["lines"], found["words"], found["characters"], found["bytes"]),
                         (2, 6, 26, 27))
        self.assertEqual(found["frequent"][0], {"word": "the", "count": 2})

    def test_last_line_feed_is_optional(self):
        for text, lines in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n", 1)]:
            self.assertEqual(wordcount.analyze(text.encode())["lines"], lines, repr(text))

    def test_config_selects_listed_words(self):
        def frequent(**settings):
            found = wordcount.analyze(b"b b a a ccc", **settings)["frequent"]
            return [entry["word"] for entry in found]
        self.assertEqual(frequent(), ["a", "b", "ccc"])
        self.assertEqual(frequent(top=1), ["a"])
        self.assertEqual(frequent(min_length=2), ["ccc"])
        self.assertEqual(frequent(ignore=["a", "none"]), ["b", "ccc"])

    def test_invalid_utf8_is_rejected(self):
        with self.assertRaises(hotbay.Error) as caught:
            wordcount.analyze(b"ab\xff")
        self.assertEqual(caught.exception.details, {"byte": 2})


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("unix", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Served(unittest.TestCase):
    def start(self, settings, idle_timeout=0):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        data = base64.b64encode(json.dumps(settings).encode()).decode()
        config = {"id": "a", "type": "unix", "idleTimeout": idle_timeout,
                  "configTypes": [{"type": "hotbay/v1", "data": data}]}
        environment = {"HOTBAY_SOCKET_DIR": folder.name, "HOTBAY_TOKEN": "ab",
                       "HOTBAY_CONFIG": json.dumps(config)}
        self.folder = folder.name
        self.process = subprocess.Popen([PROGRAM], env={**ENVIRONMENT, **environment},
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.process.communicate)
        self.addCleanup(self.process.kill)
        location = self.process.stdout.readline().decode().strip()
        self.assertTrue(location.startswith("http+unix://"), location)
        self.connection = Unix(location.removeprefix("http+unix://"))
        self.addCleanup(self.connection.close)

    def request(self, method, path, body=b"", **headers):
        self.connection.request(method, path, body, {"Hotbay-Token": "ab", **headers})
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def assert_exits(self):
        self.assertEqual(self.process.wait(60), 0)
        self.assertEqual(os.listdir(self.folder), [])

    def test_calls_share_a_connection_and_shutdown_exits(self):
        self.start({"top": 1})
        self.assertEqual(self.request("GET", "/healthz")[0], 200)
        status, body = self.request("POST", "/execute", b"b a b")
        self.assertEqual((status, body["frequent"]), (200, [{"word": "b", "count": 2}]))
        status, body = self.request("POST", "/execute", b"\xff")
        self.assertEqual((status, body["code"]), (422, 400))
        self.assertEqual(self.request("POST", "/shutdown"), (200, {}))
        self.assert_exits()

    def test_batch_replies_are_in_order(self):
        self.start({})
        bodies = [b"a b", b"\xff", b""]
        requests = [{"contentType": "text/plain", "body": base64.b64encode(body).decode()}
                    for body in bodies]
        status, body = self.request("POST", "/batch", json.dumps({"requests": requests}))
        first, second, third = body["replies"]
        self.assertEqual(json.loads(base64.b64decode(first["body"]))["words"], 2)
        self.assertEqual(second["error"]["code"], 400)
        self.assertEqual(json.loads(base64.b64decode(third["body"]))["words"], 0)

    def test_invalid_requests_are_rejected(self):
        self.start({})
        requests = [(401, "POST", "/execute", "no"), (404, "GET", "/x", "ab"),
                    (405, "GET", "/execute", "ab")]
        for status, method, path, token in requests:
            found, body = self.request(method, path, **{"Hotbay-Token": token})
            self.assertEqual((found, body["statusCode"]), (status, status))
        self.assertEqual(self.request("POST", "/batch", b"{}")[0], 400)

    def test_signal_stops_the_program(self):
        self.start({})
        self.request("GET", "/healthz")
        self.process.terminate()
        self.assert_exits()

    def test_idle_program_exits(self):
        self.start({}, idle_timeout="10ms")
        self.assert_exits()

    def test_capabilities_are_printed(self):
        capabilities = json.loads(subprocess.check_output([PROGRAM, "capabilities"],
                                                          env=ENVIRONMENT))
        self.assertEqual(capabilities["hotbay"]["endpoints"], ["execute", "batch"])


if __name__ == "__main__":
    unittest.main()
