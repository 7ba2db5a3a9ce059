#!/usr/bin/env python3
"""sslyze's report (JSON) as lines for compare.py. `sslyze.py REPORT OUTPUT`"""

import json
import pathlib
import re
import sys

VERSIONS = {"ssl_2_0": False, "ssl_3_0": False, "tls_1_0": False, "tls_1_1": False, "tls_1_2": True, "tls_1_3": True}
# (check, field, what is right)
ANSWERS = [
    ("tls_compression", "supports_compression", False),
    ("tls_1_3_early_data", "supports_early_data", False),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False),
    ("tls_fallback_scsv", "supports_fallback_scsv", True),
    ("heartbleed", "is_vulnerable_to_heartbleed", False),
    ("session_renegotiation", "supports_secure_renegotiation", True),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False),
    ("tls_extended_master_secret", "supports_ems_extension", True),
    ("elliptic_curves", "supports_ecdh_key_exchange", True),
]


def line(good, name, outcome):
    print(f"{'+' if good else '-'} {name} | {outcome}")


report = json.load(open(sys.argv[1]))["server_scan_results"][0]
if report["scan_status"] != "COMPLETED":
    sys.exit(f"the scan is {report['scan_status']}: {report['connectivity_error_trace']}")
checks = report["scan_result"]
for name, check in checks.items():
    if check["status"] != "NOT_SCHEDULED":
        line(check["status"] == "COMPLETED", f"scan {name}", check["status"].lower())
done = {name: check["result"] for name, check in checks.items() if check["result"]}
for version, wanted in VERSIONS.items():
    suites = [suite["cipher_suite"]["name"] for suite in done.get(f"{version}_cipher_suites", {}).get("accepted_cipher_suites", [])]
    line(bool(suites) == wanted, version, " ".join(sorted(suites)) or "refused")
for check, field, right in ANSWERS:
    if check in done:
        line(done[check][field] == right, field, done[check][field])
for kind in ("session_id", "tls_ticket"):
    if "session_resumption" in done:
        outcome = done["session_resumption"][f"{kind}_resumption_result"]
        line(outcome == "FULLY_SUPPORTED", f"{kind} resumption", outcome)
if "robot" in done:
    line(done["robot"]["robot_result"].startswith("NOT_VULNERABLE"), "robot", done["robot"]["robot_result"])
for place, deployment in enumerate(done.get("certificate_info", {}).get("certificate_deployments", [])):
    trusted = [path["trust_store"]["name"] for path in deployment["path_validation_results"] if path["was_validation_successful"]]
    line("Supplied CA file" in trusted, f"certificate {place} is trusted", "yes" if "Supplied CA file" in trusted else "no")
    line(deployment["received_chain_has_valid_order"], f"certificate {place} has a chain in order", deployment["received_chain_has_valid_order"])
compliance = re.search(r"^ *\S+:\d+: (OK|FAILED|ERROR) - (.*)$((?:\n +\* .*)*)", pathlib.Path(sys.argv[2]).read_text(), re.M)
if compliance:
    faults = [fault.strip(" *") for fault in compliance[3].strip().splitlines()]
    line(compliance[1] == "OK", "Mozilla's intermediate configuration", "; ".join(faults) or compliance[2])
