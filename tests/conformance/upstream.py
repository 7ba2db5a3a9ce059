#!/usr/bin/env python3
"""The service behind the gateway: answers a few paths, each with another shape of response. `upstream.py PORT`"""

import gzip
import socket
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = b"a page of the sample service\n" * 4
PAGE = b"<!doctype html><html lang=en><title>sample</title><p>a page of the sample service</html>\n"
# More than all buffers on the way hold.
LARGE = bytes(16 << 20)
CHANGED = formatdate(1_700_000_000, usegmt=True)


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        self.read_body()
        path = self.path.split("?")[0]
        if path == "/large":
            # Of what nobody reads little is to wait here.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            self.answer(200, {"Content-Type": "application/octet-stream"}, LARGE)
        elif path == "/slow":
            time.sleep(2)
            self.answer(200, {"Content-Type": "text/plain; charset=utf-8"}, TEXT)
        elif path == "/chunked":
            self.send_response(200)
            self.headed({"Content-Type": "text/html; charset=utf-8", "Transfer-Encoding": "chunked"})
            if self.command != "HEAD":
                for piece in (PAGE[:10], PAGE[10:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
        elif path == "/compressed":
            self.answer(200, {"Content-Type": "text/html; charset=utf-8", "Content-Encoding": "gzip",
                              "Vary": "Accept-Encoding", "Cache-Control": "max-age=60"}, gzip.compress(PAGE))
        elif path == "/validated":
            validators = {"ETag": '"v1"', "Last-Modified": CHANGED, "Cache-Control": "max-age=60"}
            if self.headers.get("If-None-Match") == '"v1"':
                self.answer(304, validators, None)
            else:
                self.answer(200, {"Content-Type": "text/html; charset=utf-8", **validators}, PAGE)
        elif path == "/moved":
            self.answer(301, {"Location": "/"}, b"")
        elif path == "/nothing":
            self.answer(204, {}, None)
        elif path == "/cookie":
            self.answer(200, {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store",
                              "Set-Cookie": "id=1; Path=/; Secure; HttpOnly; SameSite=Lax"}, PAGE)
        elif path == "/error":
            self.answer(500, {"Content-Type": "text/plain; charset=utf-8"}, b"an error of the service\n")
        else:
            self.answer(200, {"Content-Type": "text/plain; charset=utf-8"}, TEXT)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any

    def answer(self, status, fields, body):
        self.send_response(status)
        if body is not None:
            fields = {**fields, "Content-Length": str(len(body))}
        self.headed(fields)
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def headed(self, fields):
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def read_body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left and (piece := self.rfile.read(min(left, 1 << 16))):
                left -= len(piece)

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):
            pass  # The gateway has broken the request off.

    def version_string(self):
        return "sample"

    def log_message(self, *_):
        pass

    def __getattr__(self, name):
        # Every method that the gateway lets pass is answered.
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


Server(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
