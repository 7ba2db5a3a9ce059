#!/usr/bin/env python3
"""Sends llhttp's request corpus, byte by byte as it is, and tells what came of each. `llhttp.py FOLDER HOST PORT`

FOLDER is llhttp's `test/request`. A case without a Host field is refused for that alone, so it is sent once more with one.
What llhttp takes only when it is told to be lenient counts as refused by it."""

import concurrent.futures
import pathlib
import re
import socket
import sys

QUIET = 2.0  # seconds without a byte after which nothing more is expected
# Errors of llhttp that only hand the connection over: pauses, CONNECT, upgrades.
HANDED_OVER = {"21", "22", "23"}


def cases(folder):
    """(name, strict, accepted, complete, bytes) of every case."""
    for file in sorted(folder.glob("*.md")):
        heading, fence, strict, text, count = "", "", True, None, {}
        for block in re.split(r"^(#+ .*|<!-- meta=.*-->|```.*)$", file.read_text(), flags=re.M):
            if block.startswith("#"):
                heading = block.lstrip("# ").replace("`", "").replace("|", "/")
            elif block.startswith("<!-- meta="):
                strict = re.search(r'"type": *"([a-z-]*)"', block)[1] in ("request", "request-finish")
            elif block.startswith("```"):
                fence = block[3:].strip()
            elif fence == "http":
                text = block
            elif fence == "log" and text is not None:
                count[heading] = count.get(heading, 0) + 1
                again = f" ({count[heading]})" if count[heading] > 1 else ""
                errors = set(re.findall(r"error code=(\d+)", block)) - HANDED_OVER
                accepted = not errors and "off=NULL error" not in block
                complete = block.count("message complete")
                yield f"{file.stem}: {heading}{again}", strict, accepted, complete, unescape(text[1:])
                text = None


def unescape(text):
    """As llhttp's own runner (test/md-test.ts) does it."""
    text = text.removesuffix("\n")
    text = re.sub(r"\\(\r\n|\r|\n)", "", text)
    text = re.sub(r"\r\n|\r|\n", "\r\n", text)
    for escape, char in ((r"\\r", "\r"), (r"\\n", "\n"), (r"\\t", "\t"), (r"\\f", "\f")):
        text = re.sub(escape, char, text)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda found: chr(int(found[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8)), text)
    return text.encode("utf-8")


def with_host(request):
    """The same request with a Host field, if the first of them has none."""
    head = re.split(rb"\r?\n\r?\n", request, maxsplit=1)[0]
    if re.search(rb"^host *:", head, re.I | re.M):
        return None
    line = re.match(rb"(?:\r\n)*[^\r\n]*\r\n", request)
    return line and line[0] + b"Host: a.example.dev\r\n" + request[line.end():]


def send(address, request):
    """What comes back: the statuses, and whether the connection is closed then."""
    answer, end = b"", "closed"
    with socket.create_connection(address, timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.settimeout(QUIET)
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            end = "open"
        except OSError:
            end = "closed"
    statuses = re.findall(rb"HTTP/1\.[01] (\d\d\d) ", answer)
    words = [status.decode() for status in statuses]
    return words, " ".join([*(words or ["no answer"]), end])


def main():
    folder, host, port = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    found = list(cases(folder))
    if len(found) < 100:
        sys.exit(f"only {len(found)} cases in {folder}: has the corpus another form now?")

    def judge(case):
        name, strict, accepted, complete, request = case
        statuses, outcome = send((host, port), request)
        again = with_host(request)
        if again:
            statuses, second = send((host, port), again)
            outcome = f"{outcome}; with Host: {second}"
        served = [status for status in statuses if status[0] in "1235" and status != "501"]
        refused = [status for status in statuses if status[0] == "4" or status == "501"]
        theirs = "accepts" if accepted and strict else "refuses" if strict else "lenient"
        if theirs == "accepts":
            agrees = not refused and len([status for status in served if status != "100"]) >= complete
        else:
            agrees = bool(refused) or not served
        return f"{'+' if agrees else '-'} {name} | {theirs}: {outcome}"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for line in pool.map(judge, found):
            print(line)


main()
