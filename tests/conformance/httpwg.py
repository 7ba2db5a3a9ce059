#!/usr/bin/env python3
"""httpwg's output as lines for compare.py. `httpwg.py OUTPUT`

A case that panics has no line of its own there; its name is taken from the stack."""

import pathlib
import re
import sys

sections = {}
text = re.sub(r"\x1b\[[0-9;]*m", "", pathlib.Path(sys.argv[1]).read_text(errors="replace"))
for mark, name, rest in re.findall(r"^(✅|❌) Test (?:passed|failed): (.*)\n((?:\n|Error: *\n| *0: .*\n)*)", text, re.M):
    sections[name.split(" :: ")[1].split(".")[0]] = name.split(" :: ")[1]
    if mark == "✅":
        print(f"+ {name} | passed")
        continue
    codes = re.search(r"BitFlags<ErrorC>\(0b[01]+, (\w+)\), but got (\w+)", rest)
    late = "Timed out" in rest
    print(f"- {name} | {f'{codes[2]}, not {codes[1]}' if codes else 'no reset' if late else 'failed'}")
for stack in text.split("The application panicked")[1:]:
    found = re.search(r"httpwg::rfc9113::_(\d+)\w*::(\w+)::\{\{closure", stack.split("\nHolding")[0])
    if found:
        print(f"- RFC 9113 :: {sections.get(found[1], found[1])} :: {found[2].replace('_', ' ')} | panicked")
