#!/usr/bin/env python3
"""h2spec's report (JUnit) as lines for compare.py. `h2spec.py REPORT`"""

import sys
import xml.etree.ElementTree as xml

for case in xml.parse(sys.argv[1]).iter("testcase"):
    failure = case.find("failure")
    skipped = case.find("skipped") is not None
    outcome = "skipped" if skipped else "passed" if failure is None and case.find("error") is None else "failed"
    title = case.get("classname").replace("|", "/")
    print(f"{'+' if outcome == 'passed' else '-'} {case.get('package')}: {title} | {outcome}")
