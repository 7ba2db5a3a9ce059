#!/usr/bin/env python3
"""Runs slowhttptest's three attacks one after the other. `slow.py SLOWHTTPTEST FOLDER URL`

Where a deadline is short enough to be waited for, all connections have to be gone by then; in every second of every
attack other clients have to be served."""

import csv
import pathlib
import subprocess
import sys

# Connections, and seconds for each attack: the deadline for a head is 10 s, that for a body 5 min.
COUNT, LENGTH = 300, 20
ATTACKS = {
    "slow headers": (["-H", "-x", "24"], "", True),
    "slow body": (["-B", "-s", "8192", "-x", "10"], "", False),
    "slow read": (["-X", "-w", "1", "-y", "2", "-n", "3", "-z", "1"], "large", False),
}


def main():
    program, folder, url = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    for name, (options, path, ends) in ATTACKS.items():
        prefix = folder / name.replace(" ", "-")
        command = [program, *options, "-c", str(COUNT), "-r", "200", "-i", "3", "-l", str(LENGTH), "-p", "3",
                   "-u", url + path, "-g", "-o", str(prefix)]
        with open(f"{prefix}.log", "wb") as log:
            code = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=LENGTH + 60).returncode
        rows = list(csv.DictReader(open(f"{prefix}.csv")))
        if code or not rows:
            sys.exit(f"slowhttptest failed with {code}: {prefix}.log")
        most = max(int(row["Connected"]) for row in rows)
        served = all(int(row["Service Available"]) > 0 for row in rows[1:])
        gone = b"No open connections left" in pathlib.Path(f"{prefix}.log").read_bytes() and len(rows) <= 15
        good = most == COUNT and served and (gone or not ends)
        print(f"{'+' if good else '-'} {name} | {COUNT if most == COUNT else most} connections, "
              f"others are {'served' if served else 'NOT SERVED'}, closed {'at the deadline' if gone else 'later'}")


main()
