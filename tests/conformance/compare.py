#!/usr/bin/env python3
"""Compares what a tool has said with what is recorded. `compare.py [--record] NAME VERSION RESULTS EXPECTED`

A line is `+ case | outcome` where the tool is content and `- case | outcome` where it finds fault; the record says behind
a third bar why that is right all the same. A fault without a reason is a difference, too, however old it is. Where the
tool itself is not certain, the record begins with `~`, and any outcome will do."""

import pathlib
import sys


def read(path):
    """case -> (mark and outcome, reason)"""
    known = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("#") or not line.strip():
            continue
        mark, rest = line.split(" ", 1)
        case, outcome, *reason = rest.split(" | ")
        if case in known:
            sys.exit(f"{path}: {case} is there twice")
        known[case] = (f"{mark} {outcome}", reason[0] if reason else "")
    return known


def main():
    record = sys.argv[1] == "--record"
    name, version, results, expected = sys.argv[1 + record:]
    now, before = read(pathlib.Path(results)), read(pathlib.Path(expected))
    differences = []
    for case in sorted({*now, *before}):
        is_now, was = now.get(case), before.get(case)
        if is_now is None:
            differences.append(f"{case}: is missing, recorded as {was[0]}")
        elif was is None:
            differences.append(f"{case}: {is_now[0]}, not recorded")
        elif was[0].startswith("~"):
            pass
        elif is_now[0] != was[0]:
            differences.append(f"{case}: {is_now[0]}, recorded as {was[0]}")
        elif is_now[0].startswith("-") and not was[1]:
            differences.append(f"{case}: {is_now[0]}, recorded without a reason")
    if not now:
        differences.append("the tool has said nothing")
    if record:
        lines = []
        for case, (outcome, _) in sorted(now.items()):
            was, reason = before.get(case, ("", ""))
            mark, outcome = (was if was.startswith("~") else outcome).split(" ", 1)
            lines.append(f"{mark} {case} | {outcome}" + (f" | {reason}" if reason else ""))
        pathlib.Path(expected).write_text("\n".join(lines) + "\n")
    content = sum(outcome.startswith("+") for outcome, _ in now.values())
    result = "recorded" if record else "as recorded" if not differences else f"{len(differences)} DIFFER"
    print(f"{name:<14} {version:<12} {len(now):>5} {content:>8} {len(now) - content:>8}  {result}")
    for difference in [] if record else differences:
        print(f"    {difference}", file=sys.stderr)
    sys.exit(1 if differences and not record else 0)


main()
