#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have python3 || skip "python3 is not installed"

report=$target_dir/rtt.json
rm -f "$report"
cargo bench --bench rtt -- --quick --json "$report"
[[ -s $report ]] || fail "the benchmark wrote no $report"

python3 - "$report" <<'PYTHON'
import json
import sys


def impls(node):
    if isinstance(node, dict):
        if "impl" in node:
            yield node["impl"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from impls(child)


with open(sys.argv[1]) as report:
    found = sorted(map(str, impls(json.load(report))))
print("rows:", ", ".join(found))
missing = {"floor", "busway"} - set(found)
if missing:
    sys.exit("no row for impl " + ", ".join(sorted(missing)))
PYTHON
