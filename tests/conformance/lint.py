#!/usr/bin/env python3
"""Asks httplint about responses of the gateway, and of the service itself. `lint.py GATEWAY TLS SERVICE`, as HOST:PORT

What is found in both is the service's own; the gateway answers for the rest, and for all of its own replies."""

import http.client
import ssl
import subprocess
import sys
import time

from httplint import HttpResponseLinter
from httplint.note import levels

PATHS = ["/", "/chunked", "/compressed", "/validated", "/moved", "/nothing", "/cookie", "/error"]
ASKED = {"Host": "a.example.dev", "User-Agent": "conformance", "Accept-Encoding": "gzip"}


def faults(version, status, phrase, fields, body, method):
    linter = HttpResponseLinter(start_time=time.time(), no_content=method == "HEAD" or status in (204, 304))
    linter.process_response_topline(version.encode(), str(status).encode(), phrase.encode())
    linter.process_headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields])
    linter.feed_content(body)
    linter.finish_content(True)
    return {str(note.summary) for note in linter.notes if note.level in (levels.BAD, levels.WARN)}


def over_http1(address, method, path, fields, secure=None):
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(address, timeout=10, **({"context": secure} if secure else {}))
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in fields.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    # http.client has taken chunks off; a length is still there.
    got = ("HTTP/1.1", response.status, response.reason, response.getheaders(), response.read(), method)
    connection.close()
    return got


def over_http2(address, path, fields):
    command = ["curl", "--silent", "--include", "--http2-prior-knowledge", "--max-time", "10", f"http://{address}{path}"]
    for name, value in fields.items():
        command += ["--header", f"{name}: {value}"]
    head, _, body = subprocess.run(command, check=True, capture_output=True).stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [tuple(line.split(": ", 1)) for line in lines]
    return "HTTP/2", int(first.split()[1]), "", fields, body, "GET"


def main():
    gateway, tls, service = sys.argv[1:]
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    asked = []
    if not faults("HTTP/1.1", 200, "OK", [("Date", "yesterday"), ("Content-Length", "5")], b"", "GET"):
        sys.exit("httplint finds no fault with a response that is all wrong")
    for path in PATHS:
        for method in ("GET", "HEAD"):
            own = faults(*over_http1(service, method, path, ASKED))
            asked.append((f"{method} {path}", over_http1(gateway, method, path, ASKED), own))
        own = faults(*over_http1(service, "GET", path, ASKED))
        asked.append((f"GET {path} over TLS", over_http1(tls, "GET", path, ASKED, trusting), own))
        asked.append((f"GET {path} over HTTP/2", over_http2(gateway, path, ASKED), own))
    conditional = {**ASKED, "If-None-Match": '"v1"'}
    own = faults(*over_http1(service, "GET", "/validated", conditional))
    asked.append(("GET /validated, known", over_http1(gateway, "GET", "/validated", conditional), own))
    for name, method, path, fields in (
        ("no route", "GET", "/", {**ASKED, "Host": "nobody.example.dev"}),
        ("no host", "GET", "/", {}),
        ("no service", "GET", "/nowhere", ASKED),
        ("redirect", "GET", "/redirect", ASKED),
        ("direct response", "GET", "/direct", ASKED),
        ("unknown method", "FOO", "/", ASKED),
        ("TRACE", "TRACE", "/", ASKED),
        ("too many headers", "GET", "/", {**ASKED, **{f"X-{number}": "1" for number in range(101)}}),
        ("foreign upgrade", "GET", "/", {**ASKED, "Connection": "upgrade", "Upgrade": "foo"}),
        ("timeout", "GET", "/slow", ASKED),
    ):
        asked.append((f"own reply: {name}", over_http1(gateway, method, path, fields), set()))
    for name, response, own in asked:
        found = "; ".join(sorted(faults(*response) - own)).replace("|", "/")
        print(f"{'-' if found else '+'} {name} | {response[1]} {found or 'nothing new'}")


main()
