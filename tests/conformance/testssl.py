#!/usr/bin/env python3
"""testssl.sh's report (JSON) as lines for compare.py. `testssl.py REPORT`

A line per check with the severity that testssl.sh gives it. Of what is only told, not judged, whatever changes with every
certificate or version of the tool is left out."""

import json
import sys

WORST = ["OK", "INFO", "DEBUG", "WARN", "LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"]
# About the machine that the tool runs on.
LEFT_OUT = {"engine_problem", "scanTime", "HTTP_clock_skew", "DNS_CAArecord"}

checks = {}
for found in json.load(open(sys.argv[1])):
    name, severity = found["id"], found["severity"]
    told = severity == "INFO" and name.startswith(("cert", "cipher_x", "clientsimulation", "cipher_order_", "TLS_"))
    if name not in LEFT_OUT and not told:
        checks[name] = max(checks.get(name, "OK"), severity, key=WORST.index)
for name, severity in checks.items():
    print(f"{'+' if severity in ('OK', 'INFO') else '-'} {name} | {severity}")
